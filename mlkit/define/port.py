"""How the values of one type cross the border of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Port"]


@dataclass(frozen=True)
class Port:
    """How values of one type cross the border.

    Attributes:
        type: the annotation.
        upload: whether a value may travel as bytes of its own.
        media_type: content types of such bytes.
        url: whether the pipeline takes a URL in their place and fetches it itself.
        converts: whether the JSON form is another type than the annotation's own.
        schema: JSON schema of the JSON form, for validation mode.
        from_json: JSON form to value; raises pydantic's ValidationError or `InputError`.
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
    converts: bool = True
    media_type: str = "application/json"
    from_bytes: Callable[[bytes], Any] | None = None
    to_bytes: Callable[[Any], tuple[bytes, str]] | None = None

    @property
    def packed_type(self) -> str | None:
        """Content type that keeps more of a value than JSON does: an array's dtype."""
        packed = self.to_bytes is not None and self.schema.get("type") == "array"
        return self.media_type if packed else None
