"""Values at the border of a pipeline: what callers may pass, and how it is serialized.

Scalars, pydantic models, dataclasses and containers of them are JSON. `Image` and ``bytes`` are
uploads. Arrays are nested lists or ``.npy`` bytes, never pickle; a DataFrame is a list of records.
Any other type needs a `codec`.
"""

from __future__ import annotations

import inspect
import io
import os
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.define.graph import Graph, Problem
from mlkit.define.nested import checked, culprit, substituted
from mlkit.define.port import Port
from mlkit.define.types import Upload
from mlkit.define.typing import show, strip, unaliased
from mlkit.errors import DefinitionError, InputError, entry_point

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Port", "codec", "codecs", "plain", "port", "problems"]

_codecs: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


@entry_point
def codec(type_: type, *, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
    """Declare how values of your own type cross the border.

    Args:
        type_: the class.
        encode: converts a value to JSON-compatible data.
        decode: the inverse.

    Raises:
        DefinitionError: ``type_`` is not a class.
    """
    if not inspect.isclass(type_):
        raise DefinitionError("a codec is for a class", where="codec", got=repr(type_))
    _codecs[type_] = (encode, decode)
    port.cache_clear()


def codecs() -> dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]]:
    """Codecs declared in this process, by type: they are shipped with a pipeline."""
    return dict(_codecs)


@lru_cache(maxsize=256)
def port(annotation: Any) -> Port:
    """Return the port of a type.

    Raises:
        DefinitionError: it has none; suggests `codec`.
    """
    return _own_port(annotation) or _json_port(annotation)


def _own_port(annotation: Any) -> Port | None:
    """The port of a type that pydantic does not handle, or None."""
    annotation = unaliased(annotation)
    mark = next((m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Upload)), None)
    if mark is not None and mark.url:
        return _source_port(annotation, mark)
    bare = strip(annotation)
    origin = typing.get_origin(bare) or bare
    name = f"{getattr(bare, '__module__', '')}.{getattr(origin, '__name__', '')}"
    if bare in _codecs:
        return _codec_port(bare)
    if name == "mlkit.media.image.Image":
        return _image_port(annotation)
    if bare is bytes:
        return _bytes_port(annotation, mark or Upload())
    if name.startswith("numpy.") and name.endswith(".ndarray"):
        return _array_port(annotation)
    if name.startswith("pandas.") and name.endswith(".DataFrame"):
        return _frame_port(annotation)
    return None


def problems(graph: Graph) -> Iterator[Problem]:
    """Parameters and results whose type cannot cross the border."""
    where = f"pipeline {graph.name!r}"
    named = [(f"the argument {p.name!r}", p.type) for p in graph.parameters]
    for subject, type_ in [*named, ("what it returns", graph.returns)]:
        if type_ is inspect.Parameter.empty:
            continue
        try:
            port(type_)
        except DefinitionError as error:
            yield Problem(where, f"{subject}: {error.what}", got=show(type_), fix=error.fix)


def plain(value: Any) -> Any:
    """Convert a numpy value to JSON-compatible data; TypeError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _json_port(annotation: Any) -> Port:
    from pydantic import TypeAdapter

    inner = substituted(annotation, _own_port)
    adapter: TypeAdapter[Any] = _adapter(annotation, inner)
    schema = adapter.json_schema(ref_template="#/components/schemas/{model}")

    def to_json(value: Any) -> Any:
        return adapter.dump_python(value, mode="json", fallback=plain, warnings=False)

    if inner is not annotation:
        local = TypeAdapter(substituted(annotation, _own_port, local=True))
        return Port(annotation, checked(adapter), to_json, checked(local), schema)

    def from_caller(value: Any) -> Any:
        # A dict instead of a model is the one convenience that callers use.
        return adapter.validate_python(value) if isinstance(value, dict) else value

    return Port(annotation, adapter.validate_python, to_json, from_caller, schema, converts=False)


def _adapter(annotation: Any, inner: Any) -> TypeAdapter[Any]:
    from pydantic import PydanticUserError, TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    def fails(type_: Any) -> bool:
        try:
            TypeAdapter(type_).json_schema()
        except (PydanticSchemaGenerationError, PydanticUserError):
            return True
        return False

    if not fails(inner):
        return TypeAdapter(inner)
    raise DefinitionError(
        f"values of type {show(annotation)} cannot be serialized",
        fix=f"declare one: codec({show(culprit(inner, fails))}, encode=..., decode=...)",
    )


def _codec_port(type_: type) -> Port:
    encode, decode = _codecs[type_]

    def from_json(value: Any) -> Any:
        try:
            return decode(value)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(f"not a valid {type_.__name__}: {error}") from error

    return Port(type_, from_json, encode, lambda value: value, {})


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
        return source if isinstance(source, str) else _to_data_url(*to_bytes(source))

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
        lambda value: _to_data_url(*to_bytes(value)),
        lambda value: value if isinstance(value, Image) else decode(_content(value)),
        {"type": "string", "format": "uri", "description": "an http(s) or data: URL of a picture"},
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
        lambda value: _to_data_url(value, "application/octet-stream"),
        local,
        {"type": "string", "format": "uri", "description": "an http(s) or data: URL"},
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
    import pandas as pd

    def from_json(value: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise InputError("not a table", expected="a list of records")
        return pd.DataFrame.from_records(value)

    return Port(
        annotation,
        from_json,
        lambda value: value.to_dict(orient="records"),
        lambda value: value if isinstance(value, pd.DataFrame) else pd.DataFrame(value),
        {"type": "array", "items": {"type": "object"}, "description": "a list of records"},
    )


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
    import base64
    import binascii
    from urllib.parse import unquote_to_bytes

    text = _text(value, "a data: URL")
    head, comma, body = text.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise InputError("not a data: URL", expected="data:image/png;base64,...")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote_to_bytes(body), validate=True)
    except binascii.Error as error:
        raise InputError(f"not base64: {error}", where="data: URL") from None


def _to_data_url(data: bytes, media_type: str) -> str:
    import base64

    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
