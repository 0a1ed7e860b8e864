"""Types that cross the border of a pipeline in a form of their own.

Each has an entry: its JSON form, its upload form (bytes and a content type), its schema, and what a
caller in this process may pass for it. `codec` adds one for your own class. All other types are
pydantic's; see `schema.py`.
"""

from __future__ import annotations

import inspect
import io
import itertools
import os
import typing
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from mlkit.define.port import Port, plain
from mlkit.define.recordings import OPTIONS, audio_port, video_port
from mlkit.define.tables import Rows, frame_port
from mlkit.define.types import Upload
from mlkit.define.typing import strip, unaliased
from mlkit.errors import DefinitionError, InputError, entry_point
from mlkit.media.dataurl import bytes_of_data_url, to_data_url

__all__ = [
    "TypeCodec",
    "codec",
    "codecs",
    "dtype_of",
    "own_port",
    "register",
    "revision",
]

_DATA_URL = {"type": "string", "format": "uri", "pattern": "^[dD][aA][tT][aA]:"}

_LENGTHS = {"minLength", "maxLength", "minItems", "maxItems"}


class TypeCodec(NamedTuple):
    """How values of a class are serialized; see `codec`."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    media_type: str | None = None
    schema: Mapping[str, Any] | None = None


_codecs: dict[type, TypeCodec] = {}
_numbers = itertools.count(1)
_revisions: deque[int] = deque([0], maxlen=1)


@entry_point
def codec(
    type_: type,
    *,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    media_type: str | None = None,
    schema: Mapping[str, Any] | None = None,
) -> None:
    """Declare how values of your own class cross the border.

    ::

        codec(Clip, encode=to_wav, decode=from_wav, media_type="audio/wav")

    Args:
        type_: the class.
        encode: converts a value to JSON-compatible data, or to ``bytes`` with ``media_type``.
        decode: the inverse; raises an exception, such as ValueError, for data that is invalid.
        media_type: content type of the bytes. Values are then uploads, like images: a raw body, a
            file of a form, or a ``data:`` URL in JSON.
        schema: JSON schema of the JSON-compatible data, for ``/openapi.json``; any by default.

    Raises:
        DefinitionError: ``type_`` is not a class.
    """
    if not inspect.isclass(type_):
        raise DefinitionError("a codec is for a class", where="codec", got=repr(type_))
    register({type_: TypeCodec(encode, decode, media_type, schema)})


def codecs() -> dict[type, TypeCodec]:
    """Codecs declared in this process, by type: they are shipped with a pipeline."""
    return dict(_codecs)


def register(declared: Mapping[type, TypeCodec]) -> None:
    """Declare codecs, such as those that were shipped with a pipeline."""
    _codecs.update(declared)
    _revisions.append(next(_numbers))


def revision() -> int:
    """Return a number that changes whenever a codec is declared."""
    return _revisions[-1]


def own_port(annotation: Any) -> Port | None:
    """Return the port of a type that has one of its own, or None."""
    annotation = unaliased(annotation)
    marks = getattr(annotation, "__metadata__", ())
    upload = next((mark for mark in marks if isinstance(mark, Upload)), None)
    port = _own_port(annotation, upload)
    others = [mark for mark in marks if not isinstance(mark, (Upload, *OPTIONS))]
    if any(isinstance(mark, Rows) for mark in others):
        return port  # it applies the others too
    return _constrained(port, annotation, others) if port is not None and others else port


def _own_port(annotation: Any, mark: Upload | None) -> Port | None:
    if mark is not None and mark.url:
        return _source_port(annotation, mark)
    bare = strip(annotation)
    origin = typing.get_origin(bare) or bare
    if not inspect.isclass(origin):
        return None
    if origin in _codecs:
        return _codec_port(origin)
    if bare is bytes:
        return _bytes_port(annotation, mark or Upload())
    build = _ENTRIES.get((origin.__module__.partition(".")[0], origin.__name__))
    return None if build is None else build(annotation)


def _constrained(port: Port, annotation: Any, marks: Sequence[Any]) -> Port | None:
    """The port of a type with pydantic's constraints; None if these give it another form."""
    from pydantic import EncodedBytes, PlainSerializer, WrapSerializer

    from mlkit.define.nodes import Ported  # late: pydantic
    from mlkit.define.schema import Schema

    if any(isinstance(mark, (EncodedBytes, PlainSerializer, WrapSerializer)) for mark in marks):
        return None
    schema = Schema(Annotated[(Any, Ported(port), *marks)], own_port)
    decode = port.from_bytes
    return replace(
        port,
        type=annotation,
        from_json=schema.from_json,
        local=schema.local,
        # Lengths are those of the value, not of its JSON form.
        schema={k: v for k, v in schema.input.items() if k in port.schema or k not in _LENGTHS},
        from_bytes=decode and (lambda data: schema.from_json(decode(data))),
    )


def _codec_port(type_: type) -> Port:
    encode, decode, media_type, schema = _codecs[type_]

    def decoded(value: Any) -> Any:
        try:
            return decode(value)
        except (ConnectionError, MemoryError, TimeoutError):  # no fault of the value
            raise
        except Exception as error:  # parsers of files raise errors of their own
            raise InputError(f"not a valid {type_.__name__}: {error}") from error

    def local(value: Any) -> Any:
        if isinstance(value, type_):
            return value
        if media_type is not None and isinstance(value, os.PathLike):
            return decoded(Path(value).read_bytes())
        raise InputError(
            f"not a {type_.__name__}", expected=type_.__name__, got=type(value).__name__
        )

    if media_type is None:
        return Port(type_, decoded, encode, local, schema or {})
    return Port(
        type_,
        lambda value: decoded(bytes_of_data_url(value)),
        lambda value: to_data_url(encode(value), media_type),
        local,
        {**_DATA_URL, "description": f"a data: URL of {media_type}"},
        upload=True,
        media_type=media_type,
        from_bytes=decoded,
        to_bytes=lambda value: (encode(value), media_type),
    )


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://", "data:"))


def _source_port(annotation: Any, mark: Upload) -> Port:
    def local(value: Any) -> bytes | str:
        return value if _is_url(value) else _content(value)

    def from_json(value: Any) -> str:
        if not isinstance(value, str):
            raise InputError(
                "not text", expected="an http(s) or data: URL", got=type(value).__name__
            )
        # In the notebook a path is a source, too: a client's would name a file of the server.
        if not _is_url(value):
            raise InputError("not a URL", expected="an http(s) or data: URL", got=f"{value[:80]!r}")
        return value

    def to_bytes(value: Any) -> tuple[bytes, str]:
        data = _content(value)
        return data, _image_type(data)

    def to_json(value: Any) -> str:
        source = local(value)
        return source if isinstance(source, str) else to_data_url(*to_bytes(source))

    return Port(
        annotation,
        from_json,
        to_json,
        local,
        {
            "type": "string",
            "format": "uri",
            "description": "an http(s) or data: URL",
            "examples": ["https://example.com/shoe.jpg"],
        },
        upload=True,
        url=True,
        media_type=mark.media_type,
        from_bytes=lambda data: data,
        to_bytes=to_bytes,
    )


def _image_port(annotation: Any) -> Port:
    from mlkit.media.image import Image, decode, encode_png

    def to_bytes(value: Any) -> tuple[bytes, str]:
        data = encode_png(value) if isinstance(value, Image) else _content(value)
        return data, _image_type(data)

    return Port(
        annotation,
        lambda value: decode(bytes_of_data_url(value)),
        lambda value: to_data_url(*to_bytes(value)),
        lambda value: value if isinstance(value, Image) else decode(_content(value)),
        {
            "type": "string",
            "format": "uri",
            "pattern": "^[dD][aA][tT][aA]:",
            "description": "a data: URL of an image",
        },
        upload=True,
        media_type="image/*",
        from_bytes=decode,
        to_bytes=to_bytes,
    )


def _bytes_port(annotation: Any, mark: Upload) -> Port:
    def local(value: Any) -> bytes:
        if isinstance(value, os.PathLike):
            return _content(value)
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise InputError("not bytes", expected="bytes, or a Path", got=type(value).__name__)
        return bytes(value)

    return Port(
        annotation,
        bytes_of_data_url,
        lambda value: to_data_url(value, "application/octet-stream"),
        local,
        {
            "type": "string",
            "format": "uri",
            "pattern": "^[dD][aA][tT][aA]:",
            "description": "a data: URL",
        },
        upload=True,
        media_type=mark.media_type,
        from_bytes=lambda data: data,
        to_bytes=lambda value: (local(value), mark.media_type),
    )


def _array_port(annotation: Any) -> Port:
    import numpy as np

    dtype = dtype_of(annotation)

    def from_json(value: Any) -> Any:
        try:
            return _array(value, dtype)
        except InputError:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"not an array: {error}") from None

    def from_bytes(data: bytes) -> Any:
        try:
            array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except Exception as error:  # a header may announce anything, and be of any syntax
            raise InputError(f"not a .npy file: {error}") from None
        if array.size > len(data):  # elements of no bytes may be any number
            raise InputError("not a .npy file: elements without bytes")
        return array

    def to_bytes(value: Any) -> tuple[bytes, str]:
        array, buffer = np.asarray(value), io.BytesIO()
        if array.dtype.hasobject or array.dtype.kind == "T":
            raise InputError("the array has no .npy form", got=f"dtype {array.dtype}")
        np.save(buffer, array, allow_pickle=False)
        return buffer.getvalue(), "application/x-npy"

    return Port(
        annotation,
        from_json,
        lambda value: plain(np.asarray(value)),
        lambda value: from_json(value) if isinstance(value, (list, tuple)) else np.asarray(value),
        _one_of("array", "number", "boolean"),
        _one_of("array", "number", "boolean", "string", "null"),  # null is NaN
        upload=True,
        media_type="application/x-npy",
        from_bytes=from_bytes,
        to_bytes=to_bytes,
        objects=True,
    )


def _one_of(*types: str) -> dict[str, Any]:
    return {
        "anyOf": [{"type": "array", "items": {}}, *({"type": type_} for type_ in types[1:])],
        "description": "nested lists of numbers, or a number for an array without dimensions",
    }


def _array(value: Any, dtype: Any) -> Any:
    import numpy as np

    array = _with_nan(np.asarray(value))
    kind = array.dtype.kind
    if kind == "O" or (kind in "US" and (dtype is None or dtype.kind not in "USTmM")):
        raise InputError("not an array of numbers", expected="nested lists of numbers")
    if dtype is None:
        return array
    if array.size and kind == "f" and dtype.kind in "iub":
        raise InputError("not an array of whole numbers", expected=f"dtype {dtype}")
    return array.astype(dtype) if kind == "f" else np.asarray(value, dtype)


def _with_nan(array: Any) -> Any:
    """Read null as NaN among numbers, as public JSON writes NaN."""
    if array.dtype.kind != "O" or not array.ndim or all(v is not None for v in array.flat):
        return array
    numbers = all(value is None or type(value) in (int, float) for value in array.flat)
    return array.astype(float) if numbers else array


def dtype_of(annotation: Any) -> Any:
    """Return the dtype that ``NDArray[T]`` names; None for any."""
    import numpy as np

    *_, dtype = typing.get_args(strip(annotation)) or [None]
    *_, scalar = typing.get_args(dtype) or [None]
    # Abstract types, such as np.floating, are none of these.
    return np.dtype(scalar) if scalar in set(np.sctypeDict.values()) else None


_ENTRIES: Mapping[tuple[str, str], Callable[[Any], Port]] = {
    ("mlkit", "Audio"): lambda annotation: audio_port(annotation),
    ("mlkit", "Image"): lambda annotation: _image_port(annotation),
    ("mlkit", "Video"): lambda annotation: video_port(annotation),
    ("numpy", "ndarray"): lambda annotation: _array_port(annotation),
    ("pandas", "DataFrame"): lambda annotation: frame_port(annotation, own_port),
}
"""By top-level package and name of the class, so that none of these is imported."""


def _content(value: Any) -> bytes:
    """Encoded bytes of a picture from a path, bytes, a PIL image or an array."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        if not path.is_file():
            raise InputError(
                "there is no such file",
                expected="a path, an http(s) or data: URL, bytes, a PIL image or an array",
                got=f"{str(value)!r:.100}",
            )
        return path.read_bytes()
    from mlkit.media.image import source_bytes

    return source_bytes(value)


def _image_type(data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/*"
