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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlkit.define.port import Port
from mlkit.define.types import Upload
from mlkit.define.typing import strip, unaliased
from mlkit.errors import DefinitionError, InputError, entry_point, require_extra
from mlkit.media.dataurl import bytes_of_data_url, to_data_url

__all__ = [
    "TypeCodec",
    "codec",
    "codecs",
    "frame_from_arrow",
    "frame_to_arrow",
    "own_port",
    "register",
    "revision",
]

_DATA_URL = {"type": "string", "format": "uri", "pattern": "^[dD][aA][tT][aA]:"}

ARROW = "application/vnd.apache.arrow.stream"
"""Content type of a DataFrame as an Arrow IPC stream."""


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
        decode: the inverse; raises ValueError for data that is invalid.
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
    mark = next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Upload)), None)
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


def _codec_port(type_: type) -> Port:
    encode, decode, media_type, schema = _codecs[type_]

    def decoded(value: Any) -> Any:
        try:
            return decode(value)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
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
        lambda value: decoded(_from_data_url(value)),
        lambda value: to_data_url(encode(value), media_type),
        local,
        {**_DATA_URL, "description": f"a data: URL of {media_type}"},
        upload=True,
        media_type=media_type,
        from_bytes=decoded,
        to_bytes=lambda value: (encode(value), media_type),
    )


def _source_port(annotation: Any, mark: Upload) -> Port:
    def local(value: Any) -> bytes | str:
        if isinstance(value, str) and value.lower().startswith(("http://", "https://", "data:")):
            return value
        return _content(value)

    def from_json(value: Any) -> str:
        return _text(value, "an http(s) or data: URL")

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
        lambda value: decode(_from_data_url(value)),
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
            return Path(value).read_bytes()
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise InputError("not bytes", expected="bytes, or a Path", got=type(value).__name__)
        return bytes(value)

    return Port(
        annotation,
        _from_data_url,
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
        to_bytes=lambda value: (local(value), "application/octet-stream"),
    )


def _array_port(annotation: Any) -> Port:
    import numpy as np

    def from_json(value: Any) -> Any:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(f"not an array: {error}") from None
        if array.dtype == object or array.dtype.kind in "US":
            raise InputError("not an array of numbers", expected="nested lists of numbers")
        return array

    def from_bytes(data: bytes) -> Any:
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"not a .npy file: {error}") from None

    def to_bytes(value: Any) -> tuple[bytes, str]:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value), allow_pickle=False)
        return buffer.getvalue(), "application/x-npy"

    return Port(
        annotation,
        from_json,
        lambda value: np.asarray(value).tolist(),
        np.asarray,
        {"type": "array", "items": {}, "description": "nested lists of numbers"},
        upload=True,
        media_type="application/x-npy",
        from_bytes=from_bytes,
        to_bytes=to_bytes,
    )


def _frame_port(annotation: Any) -> Port:
    require_extra("frames", "pyarrow")
    import pandas as pd

    def from_json(value: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise InputError("not a table", expected="a list of records")
        return pd.DataFrame.from_records(value)

    def local(value: Any) -> Any:
        if isinstance(value, pd.DataFrame):
            return value
        try:
            return pd.DataFrame(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"not a table: {error}", got=type(value).__name__) from None

    return Port(
        annotation,
        from_json,
        _records,
        local,
        {"type": "array", "items": {"type": "object"}, "description": "a list of records"},
        upload=True,
        media_type=ARROW,
        from_bytes=frame_from_arrow,
        to_bytes=lambda value: (frame_to_arrow(value), ARROW),
    )


def _records(frame: Any) -> Any:
    """Rows as JSON: text for dates and durations (ISO 8601), null for missing values."""
    import json

    return json.loads(frame.to_json(orient="records", date_format="iso", date_unit="us"))


def frame_to_arrow(frame: Any) -> bytes:
    """Serialize a DataFrame as an Arrow IPC stream, with index, dtypes and kinds of columns.

    Raises:
        InputError: a column has values of several types.
    """
    import pyarrow as pa

    try:
        table = pa.Table.from_pandas(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"the DataFrame has no Arrow form: {error}") from None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def frame_from_arrow(data: bytes) -> Any:
    """Deserialize a DataFrame from an Arrow IPC stream.

    Raises:
        InputError: it is not one.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(data) as reader:
            return reader.read_all().to_pandas()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"not an Arrow IPC stream: {error}") from None


_ENTRIES: Mapping[tuple[str, str], Callable[[Any], Port]] = {
    ("mlkit", "Image"): lambda annotation: _image_port(annotation),
    ("numpy", "ndarray"): lambda annotation: _array_port(annotation),
    ("pandas", "DataFrame"): lambda annotation: _frame_port(annotation),
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


def _text(value: Any, expected: str) -> str:
    if not isinstance(value, str):
        raise InputError("not text", expected=expected, got=type(value).__name__)
    return value


def _from_data_url(value: Any) -> bytes:
    return bytes_of_data_url(_text(value, "a data: URL"))
