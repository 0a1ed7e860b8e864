"""Previews of values: one line of text and thumbnails. They never raise, whatever a value does.

Types are recognized without imports: an array or image exists only if its library is loaded.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

from mlkit.errors import printable
from mlkit.media.dataurl import to_data_url

__all__ = ["Preview", "field_names", "has_fields", "is_pil", "preview", "shorten", "size", "words"]

THUMBNAIL = 96
"""Maximum length of a thumbnail's longer side, in pixels."""

_MAX_THUMBNAILS = 3  # of a list
_ITEMS = 4
_DEPTH = 3
_CAP = 140
_MAX_SCANNED = 20_000_000  # size of an array up to which its range is computed
_KINDS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "RIFF",
    b"%PDF": "PDF",
}


@dataclass(frozen=True)
class Preview:
    """A value in one line.

    Attributes:
        text: a description.
        thumbnails: ``data:`` URLs of the image, of the first frame of a video, or of the first
            items of a list.
    """

    text: str
    thumbnails: tuple[str, ...] = ()


def preview(value: Any, most: int = 140) -> Preview:
    """Describe a value, with thumbnails if it is an image or a list of images."""
    return Preview(words(value, most), tuple(_thumbnails(value)))


def words(value: Any, most: int = 140) -> str:
    """Describe a value in at most that many characters."""
    return shorten(printable(_safe_words(value, 0)), most)


def shorten(text: str, most: int) -> str:
    """Put a text on one line, truncated with an ellipsis to at most that many characters."""
    line = text.replace("\n", " ")
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def size(count: int) -> str:
    """Format a number of bytes: ``24.1 kB``."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def _safe_words(value: Any, depth: int) -> str:
    try:
        return _described(value, depth)
    except Exception as error:
        return f"<{type(value).__name__}, cannot be shown: {type(error).__name__}>"


def _described(value: Any, depth: int) -> str:
    for matches, describe in _DESCRIBERS:
        if matches(value):
            return describe(value, depth)
    return shorten(re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split())), _CAP)


def _text(value: str, depth: int) -> str:
    return repr(shorten(value[: _CAP * 2], 80 if depth == 0 else 40))


def _number(value: float, depth: int) -> str:
    return f"{value:.4g}"


def _bytes(value: Any, depth: int) -> str:
    view = bytes(memoryview(value)[:4])
    kind = next((name for magic, name in _KINDS.items() if view.startswith(magic)), "")
    return f"{type(value).__name__}, {size(memoryview(value).nbytes)}" + f", {kind}" * bool(kind)


def _picture(value: Any, depth: int) -> str:
    return f"{type(value).__name__} {value.width} × {value.height}"


def _array(value: Any, depth: int) -> str:
    if not value.shape and hasattr(value, "item"):
        return _safe_words(value.item(), depth)
    kind = str(value.dtype).removeprefix("torch.")
    text = f"{kind} [{', '.join(map(str, value.shape))}]"
    count = prod(map(int, value.shape))
    if not 0 < count <= _MAX_SCANNED or kind.startswith(("object", "str", "<U", "|S", "datetime")):
        return text
    low, high = (float(getattr(value, bound)()) for bound in ("min", "max"))
    return f"{text} from {low:.3g} to {high:.3g}" if low != high else f"{text} all {low:.3g}"


def _frame(value: Any, depth: int) -> str:
    rows, columns = value.shape
    return f"DataFrame {rows} × {columns}: {', '.join(map(str, islice(value.columns, 12)))}"


def _fields(value: Any, depth: int) -> str:
    pairs = ((name, getattr(value, name, None)) for name in field_names(value))
    inner = _joined((f"{name}={_safe_words(v, depth + 1)}" for name, v in pairs), depth)
    return f"{type(value).__name__}({inner})"


def _mapping(value: Mapping[Any, Any], depth: int) -> str:
    pairs = (f"{_safe_words(k, depth + 1)}: {_safe_words(v, depth + 1)}" for k, v in value.items())
    return f"{{{_listed(pairs, len(value), depth)}}}"


def _series(value: Any, depth: int) -> str:
    left, right = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
    return f"{left}{_listed((_safe_words(v, depth + 1) for v in value), len(value), depth)}{right}"


def _listed(items: Iterable[str], count: int, depth: int) -> str:
    if depth >= _DEPTH:
        return "…" if count else ""
    more = f", … {count - _ITEMS} more" if count > _ITEMS else ""
    return _joined(islice(items, _ITEMS), depth) + more


def _joined(items: Iterable[str], depth: int) -> str:
    return "…" if depth >= _DEPTH else ", ".join(items)


def field_names(value: Any) -> Iterable[str]:
    """Return the names of the fields of a value that `has_fields`."""
    if hasattr(type(value), "model_fields"):
        return list(type(value).model_fields)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.repr]
    return list(value._fields)


def has_fields(value: Any) -> bool:
    """Whether a value is a model, a dataclass or a named tuple."""
    cls = type(value)
    if isinstance(value, tuple):
        return hasattr(cls, "_fields")
    return isinstance(getattr(cls, "model_fields", None), dict) or dataclasses.is_dataclass(value)


def _is_own(value: Any) -> bool:
    return type(value).__module__ == "mlkit.media.image" and type(value).__name__ == "Image"


def _is_video(value: Any) -> bool:
    return type(value).__module__ == "mlkit.media.video" and type(value).__name__ == "Video"


def is_pil(value: Any) -> bool:
    """Whether it is a PIL image, without importing PIL."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _is_frame(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "pandas" and type(value).__name__ == "DataFrame"


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and isinstance(getattr(value, "shape", None), tuple)


def _thumbnails(value: Any) -> Iterator[str]:
    items = value[:_MAX_THUMBNAILS] if type(value) in (list, tuple) else [value]
    for item in items:
        try:
            uri = _thumbnail(item)
        except Exception:
            continue  # the text still describes it
        if uri is not None:
            yield uri


def _thumbnail(value: Any) -> str | None:
    if _is_video(value):
        value = next(value.frames())  # further ones would take longer to decode
    if is_pil(value):
        small = value.reduce(_every(value.size))
    elif _is_own(value) or _looks_like_pixels(value):
        import PIL.Image

        pixels = value.pixels if _is_own(value) else value
        every = _every(pixels.shape[:2])
        small = PIL.Image.fromarray(pixels[::every, ::every].copy())
    else:
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return _uri(small)


def _every(sides: tuple[int, int]) -> int:
    """Factor by which a large image is reduced cheaply before the final resampling."""
    return max(1, max(sides) // (4 * THUMBNAIL))


def _looks_like_pixels(value: Any) -> bool:
    if type(value).__module__ != "numpy" or str(getattr(value, "dtype", "")) != "uint8":
        return False
    shape: tuple[int, ...] = value.shape
    return len(shape) == 3 and shape[2] == 3 and min(shape[:2]) >= 8


def _uri(small: Any) -> str:
    out = io.BytesIO()
    if "A" in small.getbands() or small.mode == "P":
        small.convert("RGBA").save(out, "PNG")
        kind = "png"
    else:
        small.convert("RGB").save(out, "JPEG", quality=82)
        kind = "jpeg"
    return to_data_url(out.getvalue(), f"image/{kind}")


def _of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


_DESCRIBERS: tuple[tuple[Callable[[Any], bool], Callable[[Any, int], str]], ...] = (
    (_of(bool, enum.Enum), lambda value, depth: str(value)),
    (_of(float), _number),
    (_of(str), _text),
    (_of(bytes, bytearray, memoryview), _bytes),
    (lambda value: _is_own(value) or is_pil(value), _picture),
    (_is_frame, _frame),
    (_is_array, _array),
    (has_fields, _fields),
    (_of(dict), _mapping),
    (lambda value: type(value) in (list, tuple, set, frozenset), _series),
)
