"""Core schemas of pydantic for sounds, images and videos, and for their options."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

__all__ = ["TRIAL", "annotated_schema", "data_url_schema", "open_serializer"]

TRIAL = object()
"""Context of a serialization that only finds out whether there is a form; nothing is encoded."""


def data_url_schema(cls: type, to_url: Callable[[Any], str]) -> Any:
    """Return the schema of the instances of a class, whose JSON form is a ``data:`` URL."""
    from pydantic_core import core_schema  # late: it takes most of the time of an import

    return core_schema.is_instance_schema(
        cls,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value, info: None if info.context is TRIAL else to_url(value),
            info_arg=True,
            when_used="json",
        ),
    )


@cache
def open_serializer(cls: Any) -> Any:
    """Return what pydantic serializes instances of a class with where a type is left open.

    As ``__pydantic_serializer__``; without it, they are dataclasses, and pixels nested lists.
    """
    from pydantic_core import SchemaSerializer

    return SchemaSerializer(cls.__get_pydantic_core_schema__(cls, None))


def annotated_schema(options: Any, source: Any, handler: Any) -> Any:
    """Let `mlkit.define.nodes` recognize an annotation with options in models and containers."""
    return {**handler(source), "metadata": {"mlkit_type": Annotated[source, options]}}
