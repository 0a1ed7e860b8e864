"""Pictures: one type for them, and the way from bytes to pixels.

`decode` is what a server does with an upload, so it is strict about size and quick about it: limits
are read from the header before a pixel is decoded, and a JPEG is scaled down while it is decoded.
`source_bytes` is what a client does with a path, a PIL image or an array before it uploads it.

All functions may run in several threads at once; the decoders let go of the GIL.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media import imagefile
from mlkit.media.imagefile import Pixels

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "MAX_PIXELS", "Image", "decode", "encode_png", "source_bytes"]

MAX_BYTES = 20 * 2**20
"""Bytes that an encoded picture may have: 20 MiB."""

MAX_PIXELS = 64_000_000
"""Pixels that a JPEG may have: what the largest common phone camera takes."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Image:
    """A picture, upright, in 8-bit RGB.

    Attributes:
        pixels: uint8 array [H, W, 3]. It may be smaller than the original, since a JPEG is scaled
            while it is decoded; its proportions are the original's.
        width: width of the upright original, in pixels.
        height: height of the upright original, in pixels.
    """

    pixels: Pixels
    width: int
    height: int

    @classmethod
    def open(cls, source: Any) -> Image:
        """Return the picture that ``source`` holds.

        Args:
            source: a path, the bytes of a picture file, a PIL image, an array or an `Image`.
                Arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; uint8, bool, or floats
                from 0 to 1.

        Raises:
            InputError: it is none of these, or what it holds is no picture that can be read.
            FileNotFoundError: the path leads nowhere.
        """
        if isinstance(source, Image):
            return source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return decode(bytes(source))
        if isinstance(source, (str, os.PathLike)):
            return decode(_read(source))
        if _is_pil(source):
            return _from_pil(source)
        if hasattr(source, "__array__"):
            return _from_array(source)
        raise InputError(
            "this cannot be taken for a picture",
            expected="a path, bytes, a PIL image, an array or an Image",
            got=f"an object of type {type(source).__name__}",
        )

    def pil(self) -> PIL.Image.Image:
        """Return the pixels as a PIL image of mode RGB."""
        import PIL.Image

        return PIL.Image.fromarray(self.pixels)

    def resized(self, size: int) -> Pixels:
        """Return the pixels squashed to a square: uint8 [size, size, 3], bilinear, antialiased."""
        import numpy as np
        import PIL.Image

        return np.asarray(self.pil().resize((size, size), PIL.Image.Resampling.BILINEAR))

    def thumbnail_png(self, max_side: int = 256) -> bytes:
        """Return a PNG of the picture whose longer side has at most ``max_side`` pixels."""
        small = self.pil()
        small.thumbnail((max_side, max_side))
        return _png(small)

    def thumbnail_uri(self, max_side: int = 256) -> str:
        """Return `thumbnail_png` as a ``data:`` URL, ready for an ``<img src=...>``."""
        return "data:image/png;base64," + base64.b64encode(self.thumbnail_png(max_side)).decode()

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.pixels.shape)
        return f"Image(pixels=<uint8 {shape}>, width={self.width}, height={self.height})"

    def _repr_png_(self) -> bytes:
        return self.thumbnail_png()


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    min_side: int | None = None,
) -> Image:
    """Return the picture that is encoded in ``data``, upright.

    JPEG, PNG, WebP and GIF are read, in every colour mode and depth they have: grey, palette, CMYK
    and 16-bit pictures become 8-bit RGB, transparency is laid on white, of an animation the first
    frame is taken. Colour profiles are not applied.

    Args:
        data: the whole file.
        max_bytes: how long ``data`` may be.
        max_pixels: how many pixels (width times height) a JPEG may have, going by its header;
            nothing is decoded before that is known. PNG, WebP and GIF, which are decoded in full
            before they are scaled, may have half as many.
        min_side: when given, the pixels may be scaled down while decoding, as long as both sides
            keep at least that many; for a JPEG that is done on its DCT coefficients. ``width`` and
            ``height`` are always those of the original.

    Raises:
        PayloadTooLarge: more bytes or pixels than allowed.
        UnsupportedMedia: it is not one of these four kinds.
        InputError: it is, but empty, truncated or damaged.
    """
    if len(data) > max_bytes:
        raise PayloadTooLarge(
            "the picture file is too large",
            expected=f"at most {max_bytes:,} bytes",
            got=f"{len(data):,}",
        )
    if not data:
        raise InputError("the picture is empty", expected="a picture file", got="0 bytes")
    pixels, (width, height) = imagefile.read(data, max_pixels, min_side)
    return Image(pixels, width, height)


def encode_png(picture: Any) -> bytes:
    """Return ``picture`` (whatever `Image.open` takes) as the bytes of a PNG file."""
    return _png(Image.open(picture).pil())


def source_bytes(source: Any) -> bytes:
    """Return the bytes to upload for ``source``: what `Image.open` takes.

    Files and bytes travel as they are; PIL images, arrays and an `Image` as PNG.

    Raises:
        InputError: it is none of these. A URL is not: it is sent as it is, never read here.
        FileNotFoundError: the path leads nowhere.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return _read(source)
    return encode_png(source)


def _read(path: str | os.PathLike[str]) -> bytes:
    if isinstance(path, str) and path.lower().startswith(("http://", "https://", "data:")):
        raise InputError(
            "a URL is not a file",
            expected="a path",
            got=path[:60],
            fix="use mlkit.tagging.download to fetch it",
        )
    return Path(path).read_bytes()


def _from_pil(source: PIL.Image.Image) -> Image:
    pixels, (width, height) = imagefile.upright_rgb(source, source.size)
    return Image(pixels, width, height)


def _from_array(source: Any) -> Image:
    import numpy as np

    array = np.asarray(source)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4} or 0 in array.shape:
        raise InputError(
            "this array cannot be taken for a picture",
            expected="a shape of [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]",
            got=f"{list(np.shape(source))}",
        )
    array = _as_uint8(array)
    height, width, channels = array.shape
    if channels == 1:
        array = array.repeat(3, axis=2)
    elif channels == 4:
        import PIL.Image

        return _from_pil(PIL.Image.fromarray(array))
    return Image(np.ascontiguousarray(array), width, height)


def _as_uint8(array: NDArray[Any]) -> Pixels:
    import numpy as np

    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return (array * 255 + 0.5).astype(np.uint8)
    raise InputError(
        "the values of this array cannot be taken for colours",
        expected="uint8, bool, or floats from 0 to 1",
        got=f"{array.dtype} from {array.min()} to {array.max()}",
        fix="scale it to uint8 first, so that nothing has to be guessed",
    )


def _is_pil(source: Any) -> bool:
    # Who has a PIL image has imported PIL.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _png(picture: PIL.Image.Image) -> bytes:
    out = io.BytesIO()
    # Level 1 is several times quicker than the default for a few per cent more bytes.
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
