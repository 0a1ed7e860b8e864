"""The `Image` type, and conversions from files, arrays and PIL images.

Servers `decode` uploads: limits are checked against the header before any pixel is decoded, and a
JPEG is scaled down during decoding. Clients turn paths, PIL images and arrays into uploads with
`source_bytes`.

All functions are thread-safe; the decoders release the GIL.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import InputError, PayloadTooLarge
from mlkit.media import imagefile
from mlkit.media.dataurl import to_data_url
from mlkit.media.imagefile import Pixels
from mlkit.media.preview import is_pil
from mlkit.media.schema import data_url_schema, open_serializer

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

__all__ = ["MAX_BYTES", "MAX_PIXELS", "Image", "decode", "encode_png", "source_bytes"]

MAX_BYTES = 20 * 2**20
"""Default limit for encoded images: 20 MiB."""

MAX_PIXELS = 64_000_000
"""Default limit for JPEGs, in pixels: the resolution of the largest common phone cameras."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Image:
    """An upright image in 8-bit RGB.

    Attributes:
        pixels: uint8 array [H, W, 3]. It may be smaller than the original, with the same aspect
            ratio: a JPEG is scaled during decoding.
        width: width of the upright original, in pixels.
        height: height of the upright original, in pixels.
    """

    pixels: Pixels
    width: int
    height: int

    @classmethod
    def open(cls, source: Any) -> Image:
        """Convert ``source`` to an image.

        Args:
            source: a path, the bytes of an image file, a PIL image, an array or an `Image`.
                Arrays are [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; uint8, bool, or floats
                from 0 to 1.

        Raises:
            InputError: ``source`` has another type, or cannot be decoded.
            FileNotFoundError: the path does not exist.
        """
        if isinstance(source, Image):
            return source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return decode(bytes(source))
        if isinstance(source, (str, os.PathLike)):
            return decode(_read(source))
        if is_pil(source):
            return _from_pil(source)
        if hasattr(source, "__array__"):
            return _from_array(source)
        raise InputError(
            "cannot be converted to an image",
            expected="a path, bytes, a PIL image, an array or an Image",
            got=f"an object of type {type(source).__name__}",
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Allow images as fields of pydantic models; their JSON form is a data: URL."""
        return data_url_schema(cls, lambda image: to_data_url(encode_png(image), "image/png"))

    @property
    def __pydantic_serializer__(self) -> Any:
        return open_serializer(type(self))  # type: ignore[arg-type]

    def pil(self) -> PIL.Image.Image:
        """Return the pixels as a PIL image of mode RGB."""
        import PIL.Image

        return PIL.Image.fromarray(self.pixels)

    def resized(self, size: int) -> Pixels:
        """Resize to uint8 [size, size, 3], bilinear, antialiased; the aspect ratio is not kept."""
        import numpy as np
        import PIL.Image

        return np.asarray(self.pil().resize((size, size), PIL.Image.Resampling.BILINEAR))

    def thumbnail_png(self, max_side: int = 256) -> bytes:
        """Return a PNG thumbnail whose longer side is at most ``max_side`` pixels."""
        small = self.pil()
        small.thumbnail((max_side, max_side))
        return _png(small)

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
    """Decode a JPEG, PNG, WebP or GIF file, and apply its EXIF orientation.

    All colour modes and depths are supported: greyscale, palette, CMYK and 16-bit images are
    converted to 8-bit RGB, transparency is composited on white, and the first frame of an animation
    is used. Colour profiles are not applied.

    Args:
        data: the whole file.
        max_bytes: maximum length of ``data``.
        max_pixels: maximum width times height of a JPEG, checked against its header before
            decoding. PNG, WebP and GIF, which are decoded at full size, may have half as many.
        min_side: allow scaling during decoding as long as both sides keep this many pixels; a JPEG
            is scaled in its DCT coefficients. ``width`` and ``height`` remain the original's.

    Raises:
        PayloadTooLarge: the file exceeds one of the limits.
        UnsupportedMedia: the file has another format.
        InputError: the file is empty, truncated or corrupt.
    """
    if len(data) > max_bytes:
        raise PayloadTooLarge(
            "the image file is too large",
            expected=f"at most {max_bytes:,} bytes",
            got=f"{len(data):,}",
        )
    if not data:
        raise InputError("the image is empty", expected="an image file", got="0 bytes")
    pixels, (width, height) = imagefile.read(data, max_pixels, min_side)
    return Image(pixels, width, height)


def encode_png(image: Any) -> bytes:
    """Encode as PNG whatever `Image.open` accepts."""
    return _png(Image.open(image).pil())


def source_bytes(source: Any) -> bytes:
    """Return the bytes to upload for whatever `Image.open` accepts.

    Files and bytes are sent unchanged; PIL images, arrays and an `Image` as PNG.

    Raises:
        InputError: ``source`` has another type, or is a URL: those are fetched by the server.
        FileNotFoundError: the path does not exist.
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
            "unsupported array shape",
            expected="[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]",
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
    numbers = array.dtype.kind in "iuf"
    raise InputError(
        "unsupported array values",
        expected="uint8, bool, or floats from 0 to 1",
        got=f"{array.dtype} from {array.min()} to {array.max()}" if numbers else str(array.dtype),
        fix="convert it to uint8 first",
    )


def _png(image: PIL.Image.Image) -> bytes:
    out = io.BytesIO()
    # Several times faster than the default level, for a few per cent more bytes.
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
