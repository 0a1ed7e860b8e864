"""How the values of one type cross the border of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

from mlkit.errors import InputError

__all__ = ["Port", "PydanticForm", "escaped", "json_text", "plain", "without_arrays"]


class PydanticForm(Protocol):
    """JSON form of a type by pydantic; implemented by `mlkit.define.schema.Schema`."""

    core: Any
    output: dict[str, Any]

    @property
    def open(self) -> bool:
        """Whether the type leaves open what some of its values are."""

    def check(self, value: Any) -> None:
        """Check that a value has a JSON form; raises an exception otherwise."""

    def parse(self, body: bytes) -> Any:
        """Validate JSON; raises pydantic's ValidationError."""

    def to_python(self, value: Any) -> Any:
        """Serialize to what JSON can hold."""

    def to_json(self, value: Any) -> bytes:
        """Serialize to JSON."""


@dataclass(frozen=True)
class Port:
    """How values of one type cross the border.

    Attributes:
        type: the annotation.
        upload: whether a value may travel as bytes of its own.
        media_type: content types of such bytes, separated by commas; the first is what `to_bytes`
            of an array or a table returns.
        url: whether the pipeline takes a URL in their place and fetches it itself.
        schema: JSON schema of the JSON form that is accepted.
        output: JSON schema of the JSON form that is produced, where it is another one.
        pydantic: validates and serializes a type without a form of its own.
        from_json: decoded JSON to value; raises `InputError`.
        to_json: value to what `plain` and JSON can hold.
        from_bytes: bytes to value; None where it is no upload.
        to_bytes: value to bytes and their content type; None where it is no upload.
        encodings: encoders of a result by further content types, which a client may prefer.
        local: what a caller in this process passed, to the value the pipeline wants.
        objects: whether values may hold objects of any type, as arrays and tables do.
    """

    type: Any
    from_json: Callable[[Any], Any]
    to_json: Callable[[Any], Any]
    local: Callable[[Any], Any]
    schema: Mapping[str, Any]
    output: Mapping[str, Any] | None = None
    upload: bool = False
    url: bool = False
    pydantic: PydanticForm | None = None
    media_type: str = "application/json"
    from_bytes: Callable[[bytes], Any] | None = None
    to_bytes: Callable[[Any], tuple[bytes, str]] | None = None
    encodings: Mapping[str, Callable[[Any], bytes]] = field(default_factory=dict)
    objects: bool = False

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """JSON schema of the JSON form that is produced."""
        if self.pydantic is not None:
            return self.pydantic.output
        return self.schema if self.output is None else self.output

    @property
    def packed_type(self) -> str | None:
        """Content type that keeps more of a value than JSON does: dtypes of arrays and tables."""
        packed = self.to_bytes is not None and self.schema.get("type") != "string"
        return self.media_types[0] if packed else None

    @property
    def media_types(self) -> list[str]:
        """Content types of a value as bytes of its own."""
        return self.media_type.replace(" ", "").split(",")

    def to_text(self, value: Any) -> bytes:
        """Serialize a value to JSON; NaN and infinity are null."""
        if self.pydantic is not None:
            return self.pydantic.to_json(value)
        return json_text(self.to_json(value))

    def parse(self, body: bytes) -> Any:
        """Decode and validate JSON.

        Raises:
            InputError: it is invalid.
        """
        if self.pydantic is not None:
            return self.pydantic.parse(body)
        try:
            value = json.loads(body)
        except ValueError as error:
            raise InputError(f"not JSON: {error}") from None
        except RecursionError:
            raise InputError("the JSON is nested too deeply") from None
        return self.from_json(value)


def plain(value: Any) -> Any:
    """Convert a value of numpy, pandas or torch to JSON-compatible data.

    Raises:
        TypeError: it is of another type, or has no such form.
    """
    kind = type(value)
    if kind.__module__.startswith("pandas") and kind.__name__ in _PANDAS:
        return _PANDAS[kind.__name__](value)
    if hasattr(value, "tolist"):
        try:
            return _listed(value)
        except (RuntimeError, TypeError):  # such as a sparse tensor
            pass
    raise TypeError(f"values of type {kind.__name__} have no JSON form")


def _listed(value: Any) -> Any:
    """Python's own values, also where `tolist` returns numpy's, or times as integers."""
    kind = str(getattr(value, "dtype", ""))
    if kind in _LONG:
        value = value.astype(_LONG[kind])
    elif kind.endswith("[ns]"):
        rounded = value.astype(kind.replace("ns", "us"))
        value = rounded if (rounded.astype(kind).view("i8") == value.view("i8")).all() else value
    return value.tolist()


_LONG: Mapping[str, type] = {
    **dict.fromkeys(("longdouble", "float96", "float128"), float),
    **dict.fromkeys(("clongdouble", "complex192", "complex256"), complex),
}
"""Python's types by the dtypes of which it has none."""

_PANDAS: Mapping[str, Callable[[Any], Any]] = {
    "Interval": str,
    "Period": str,
    "NAType": lambda value: None,
    "NaTType": lambda value: None,
}
"""JSON forms of scalars, as in tables."""


def json_text(document: Any) -> bytes:
    """Serialize to JSON what `Port.to_json` returns; NaN and infinity are null."""
    import pydantic_core

    try:
        return pydantic_core.to_json(
            document, fallback=plain, inf_nan_mode="null", bytes_mode="base64"
        )
    except pydantic_core.PydanticSerializationError as error:
        return escaped(error, lambda: document)


def escaped(error: Exception, document: Callable[[], Any]) -> bytes:
    """Serialize text with lone surrogates, which only an escape sequence can express.

    Args:
        error: pydantic's; raised again if it is another one.
        document: returns what JSON can hold.
    """
    if "surrogates" not in str(error):
        raise error
    return json.dumps(_without_nan(document()), default=plain).encode()


def _without_nan(tree: Any) -> Any:
    if isinstance(tree, float):
        return tree if isfinite(tree) else None
    if isinstance(tree, list):
        return [_without_nan(item) for item in tree]
    if isinstance(tree, dict):
        return {key: _without_nan(item) for key, item in tree.items()}
    return tree


def without_arrays(value: Any) -> Any:
    """Convert scalars and arrays of numpy, and tensors, in lists, tuples and dicts to Python's own.

    Returns the very same object if there are none.
    """
    package = type(value).__module__.partition(".")[0]
    if package in ("numpy", "torch") and hasattr(value, "tolist"):
        try:
            return _listed(value)
        except (RuntimeError, TypeError):  # such as a sparse tensor
            return value
    if type(value) in (list, tuple):
        items = [without_arrays(item) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return type(value)(items) if changed else value
    if type(value) is dict:
        entries = {without_arrays(k): without_arrays(v) for k, v in value.items()}
        changed = any(entries.get(k) is not v for k, v in value.items())
        return entries if changed else value
    return value
