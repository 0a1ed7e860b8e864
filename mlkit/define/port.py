"""How the values of one type cross the border of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlkit.errors import InputError

__all__ = ["Port", "PydanticForm", "plain", "without_numpy"]


class PydanticForm(Protocol):
    """JSON form of a type by pydantic; implemented by `mlkit.define.schema.Schema`."""

    core: Any
    output: dict[str, Any]

    def parse(self, body: bytes) -> Any:
        """Validate JSON; raises pydantic's ValidationError."""

    def to_json(self, value: Any) -> bytes:
        """Serialize to JSON."""


@dataclass(frozen=True)
class Port:
    """How values of one type cross the border.

    Attributes:
        type: the annotation.
        upload: whether a value may travel as bytes of its own.
        media_type: content types of such bytes.
        url: whether the pipeline takes a URL in their place and fetches it itself.
        schema: JSON schema of the JSON form that is accepted.
        pydantic: validates and serializes a type without a form of its own.
        from_json: decoded JSON to value; raises `InputError`.
        to_json: value to what `plain` and JSON can hold.
        from_bytes: bytes to value; None where it is no upload.
        to_bytes: value to bytes and their content type; None where it is no upload.
        local: what a caller in this process passed, to the value the pipeline wants.
    """

    type: Any
    from_json: Callable[[Any], Any]
    to_json: Callable[[Any], Any]
    local: Callable[[Any], Any]
    schema: Mapping[str, Any]
    upload: bool = False
    url: bool = False
    pydantic: PydanticForm | None = None
    media_type: str = "application/json"
    from_bytes: Callable[[bytes], Any] | None = None
    to_bytes: Callable[[Any], tuple[bytes, str]] | None = None

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """JSON schema of the JSON form that is produced."""
        return self.schema if self.pydantic is None else self.pydantic.output

    @property
    def packed_type(self) -> str | None:
        """Content type that keeps more of a value than JSON does: dtypes of arrays and tables."""
        packed = self.to_bytes is not None and self.schema.get("type") == "array"
        return self.media_type if packed else None

    def parse(self, body: bytes) -> Any:
        """Decode and validate JSON.

        Raises:
            InputError: it is invalid.
        """
        if self.pydantic is not None:
            return self.pydantic.parse(body)
        try:
            value = json.loads(body)
        except ValueError as error:
            raise InputError(f"not JSON: {error}") from None
        return self.from_json(value)


def plain(value: Any) -> Any:
    """Convert a numpy value to JSON-compatible data; TypeError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def without_numpy(value: Any) -> Any:
    """Convert numpy scalars and arrays in lists, tuples and dicts to Python's own types.

    Returns the very same object if there are none.
    """
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        items = [without_numpy(item) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    if type(value) is dict:
        entries = {without_numpy(k): without_numpy(v) for k, v in value.items()}
        changed = any(entries.get(k) is not v for k, v in value.items())
        return entries if changed else value
    return value
