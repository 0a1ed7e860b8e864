"""What a value is at the border of a pipeline: JSON, or an upload."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

__all__ = ["ImageSource", "Upload"]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Marks a parameter whose value travels as bytes rather than as JSON.

    Attributes:
        media_type: the content types a raw body may have, as in an ``Accept`` header.
        url: whether the pipeline itself takes an ``http(s)`` or ``data:`` URL and fetches it;
            without it, only ``data:`` URLs are taken in JSON and are decoded at the border.
    """

    media_type: str = "application/octet-stream"
    url: bool = False


if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    ImageSource: TypeAlias = str | bytes | os.PathLike[str] | PIL.Image.Image | np.ndarray
else:
    ImageSource = Annotated[str | bytes, Upload(media_type="image/*", url=True)]
    """A picture as a caller has it: a path, URL, bytes, PIL image or array.

    A step that takes one is given either the picture's bytes or an ``http(s)`` or ``data:`` URL;
    paths, PIL images and arrays are turned into bytes before the pipeline starts, where the caller
    is: a served pipeline never opens a path.
    """
