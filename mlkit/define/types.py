"""Markers of types that are uploaded rather than sent as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

__all__ = ["ImageSource", "Upload"]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Marks a parameter whose value is sent as raw bytes rather than as JSON.

    Attributes:
        media_type: accepted content types of a raw body, as in an ``Accept`` header.
        url: whether the pipeline itself takes an ``http(s)`` or ``data:`` URL and fetches it;
            without it, JSON may contain ``data:`` URLs only, which are decoded at the border.
    """

    media_type: str = "application/octet-stream"
    url: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let `mlkit.define.nodes` recognize the annotation in models and containers."""
        from pydantic_core import core_schema

        if not self.url:
            return handler(source)
        return core_schema.any_schema(metadata={"mlkit_type": Annotated[source, self]})


if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    ImageSource: TypeAlias = str | bytes | os.PathLike[str] | PIL.Image.Image | np.ndarray
else:
    ImageSource = Annotated[str | bytes, Upload(media_type="image/*", url=True)]
    """A picture as a path, URL, bytes, PIL image or array.

    A step that takes one gets the encoded bytes, or an ``http(s)`` or ``data:`` URL; paths, PIL
    images and arrays are encoded in the caller's process before the pipeline starts: a served
    pipeline never opens a path.
    """
