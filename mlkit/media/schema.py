"""Core schemas of pydantic for sounds, images and videos, and for their options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

__all__ = ["annotated_schema", "data_url_schema"]


def data_url_schema(cls: type, to_url: Callable[[Any], str]) -> Any:
    """Return the schema of the instances of a class, whose JSON form is a ``data:`` URL."""
    from pydantic_core import core_schema  # late: it takes most of the time of an import

    return core_schema.is_instance_schema(
        cls,
        serialization=core_schema.plain_serializer_function_ser_schema(to_url, when_used="json"),
    )


def annotated_schema(options: Any, source: Any, handler: Any) -> Any:
    """Let `mlkit.define.nodes` recognize an annotation with options in models and containers."""
    return {**handler(source), "metadata": {"mlkit_type": Annotated[source, options]}}
