"""Decoders of image files: from bytes to upright pixels, within limits."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from mlkit.errors import InputError, PayloadTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.uint8]
else:
    # For `typing.get_type_hints`, without importing numpy.
    Pixels: TypeAlias = Any

__all__ = ["Pixels", "describe", "read", "upright_rgb"]

MAX_SCANS = 100
"""Maximum number of scans in a JPEG. Ten are usual; thousands make a small file slow to decode, see
"Two Issues with the JPEG Standard" of the libjpeg-turbo project."""

MAX_PARTS = 10_000
"""Maximum of chunks in a PNG, and of segments of a JPEG or blocks of a GIF before its pixels.
Pillow reads them one by one in Python: millions of empty ones would take it a minute."""

_FATAL = ("remature end", "bad Huffman code")
"""libjpeg's warnings about missing or wrong pixels. Others are harmless, such as the one about
stray bytes between markers, which cameras write."""

Sized: TypeAlias = "tuple[Pixels, tuple[int, int]]"
"""Upright pixels, and (width, height) of the upright original."""


def read(data: bytes, max_pixels: int, min_side: int | None) -> Sized:
    """Decode a file; arguments and errors are those of `mlkit.media.image.decode`."""
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(data, max_pixels, min_side)
    for kind, (is_kind, size_of) in _HEADERS.items():
        if is_kind(data):
            if kind in _PARTS:
                _check_parts(kind, _PARTS[kind](data))
            # These cannot be scaled during decoding, and need up to 16 bytes per pixel.
            _check_pixels(size_of(data), max_pixels // 2)
            return _read_with_pillow(data, kind, max_pixels // 2, min_side)
    raise UnsupportedMedia(
        "unsupported image format",
        expected="a JPEG, PNG, WebP or GIF file",
        got=describe(data),
    )


def upright_rgb(
    image: PIL.Image.Image, size: tuple[int, int], min_side: int | None = None
) -> Sized:
    """Convert a PIL image of any mode to upright uint8 RGB; transparency is composited on white.

    Args:
        image: the image; its EXIF orientation is applied.
        size: (width, height) of the original, before rotation.
        min_side: see `mlkit.media.image.decode`.
    """
    import numpy as np

    orientation = _orientation_of(image)
    small = _reduced(_plain(image), min_side)
    return _oriented(np.asarray(_on_white(small)), size, orientation)


# --- JPEG


def _read_jpeg(data: bytes, max_pixels: int, min_side: int | None) -> Sized:
    import simplejpeg

    _check_scans(data)
    _check_parts("JPEG", _jpeg_segments(data))
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels((width, height), max_pixels)
        if space not in {"CMYK", "YCCK"}:
            pixels = _jpeg_pixels(data, min_side)
            return _oriented(pixels, (width, height), _jpeg_orientation(data))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        if any(words in str(error) for words in _FATAL):
            raise _corrupt("JPEG", error) from error
    # Pillow is slower and more lenient, and reads Adobe's marker, which tells whether the inks of a
    # CMYK image are stored inverted.
    return _read_with_pillow(data, "JPEG", max_pixels, min_side)


def _jpeg_pixels(data: bytes, min_side: int | None) -> Pixels:
    import simplejpeg

    sides = {"min_height": min_side or 0, "min_width": min_side or 0, "min_factor": 1}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, **sides)
    return pixels


def _check_scans(data: bytes) -> None:
    # 0xFF is always stuffed inside compressed data, so these two bytes start a scan.
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise PayloadTooLarge(
            "the JPEG has too many scans", expected=f"at most {MAX_SCANS}", got=f"{scans:,}"
        )


def _jpeg_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or invalid."""
    at = data.find(b"Exif\0\0")
    if at < 4 or data[at - 4 : at - 2] != b"\xff\xe1":
        return 1
    import PIL.Image

    exif = PIL.Image.Exif()
    try:
        exif.load(data[at : at - 2 + int.from_bytes(data[at - 2 : at], "big")])
        return _valid_orientation(exif.get(_ORIENTATION, 1))
    except Exception:  # a corrupt EXIF block does not invalidate the image
        return 1


# --- PNG, WebP and GIF


def _read_with_pillow(data: bytes, kind: str, max_pixels: int, min_side: int | None) -> Sized:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_pixels(image.size, max_pixels)
            size = image.size
            if kind == "JPEG" and min_side:
                image.draft(None, (min_side, min_side))
            image.load()
            return upright_rgb(image, size, min_side)
    except (
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
        MemoryError,
    ) as error:
        raise PayloadTooLarge(f"the {kind} has too many pixels", got=str(error)) from error
    except InputError:
        raise
    except Exception as error:  # decoders raise anything on corrupt data
        raise _corrupt(kind, error) from error


def _plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert to 8-bit L, RGB or RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    clear = image.has_transparency_data
    # Converting to the current mode would copy.
    if image.mode in ({"RGBA"} if clear else {"RGB", "L"}):
        return image
    return image.convert("RGBA" if clear else "RGB")


def _from_deep(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert 16-bit or float greyscale to 8 bits."""
    import numpy as np
    import PIL.Image

    values = np.asarray(image, dtype=np.float32)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=0)))
    return PIL.Image.fromarray((values.clip(0, top) * (255.0 / top) + 0.5).astype(np.uint8))


def _reduced(image: PIL.Image.Image, min_side: int | None) -> PIL.Image.Image:
    factor = min(image.size) // min_side if min_side else 1
    return image.reduce(factor) if factor >= 2 else image


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    import PIL.Image

    if image.mode == "RGBA":
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


# --- orientation

_ORIENTATION = 0x0112


def _orientation_of(image: PIL.Image.Image) -> int:
    try:
        return _valid_orientation(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a corrupt EXIF block does not invalidate the image
        return 1


def _valid_orientation(orientation: Any) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _oriented(pixels: Pixels, size: tuple[int, int], orientation: int) -> Sized:
    """Apply an orientation to pixels and size. The eight cases: EXIF 2.32, tag 274."""
    import numpy as np

    if orientation >= 5:
        pixels, size = pixels.transpose(1, 0, 2), size[::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels), size


# --- parts


def _check_parts(kind: str, parts: Iterator[int]) -> None:
    if next(islice(parts, MAX_PARTS, None), None) is not None:
        raise PayloadTooLarge(f"the {kind} has too many parts", expected=f"at most {MAX_PARTS:,}")


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Yield where the segments before the first scan start; see ITU-T T.81, annex B."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3 and data[at + 1] != 0xDA:
        yield at
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # without contents
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png_chunks(data: bytes) -> Iterator[int]:
    """Yield where the chunks start."""
    at = 8
    while at < len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Yield where the blocks before the first frame start, and the parts of extensions."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    while at < len(data) and data[at] not in b",;":
        yield at
        if data[at] != 0x21:
            at += 1
            continue
        at += 2
        while at < len(data) and data[at]:
            yield at
            at += 1 + data[at]
        at += 1


_PARTS: dict[str, Callable[[bytes], Iterator[int]]] = {"PNG": _png_chunks, "GIF": _gif_blocks}

# --- headers


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the canvas size, see RFC 9649, sections 2.5 to 2.7."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width, height


_HEADERS: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes], tuple[int, int]]]] = {
    "PNG": (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png_size),
    "WEBP": (lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp_size),
    "GIF": (lambda data: data[:6] in {b"GIF87a", b"GIF89a"}, _gif_size),
}

_OTHERS = {
    b"%PDF": "a PDF document",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip data",
    b"<": "text that looks like HTML or XML",
    b"{": "text that looks like JSON",
}


def describe(data: bytes) -> str:
    """Describe a file that is not an image, a sound or a video."""
    if data[4:8] == b"ftyp":
        return f"a container of brand {data[8:12].decode('ascii', 'replace')!r} (HEIC, AVIF, video)"
    for start, name in _OTHERS.items():
        if data[:64].lstrip().startswith(start):
            return name
    return f"{len(data):,} bytes starting with {data[:12]!r}"


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PayloadTooLarge(
            "the image has too many pixels",
            expected=f"at most {max_pixels:,}",
            got=f"{width} x {height} = {width * height:,}",
        )


def _corrupt(kind: str, cause: Exception) -> InputError:
    return InputError(
        f"the {kind} image is truncated or corrupt",
        expected="a complete file",
        got=f"decoder error: {cause}",
    )
