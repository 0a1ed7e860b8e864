"""Core schemas of pydantic, with the JSON forms of classes that have a port of their own.

pydantic builds a core schema for a type. Nodes of classes with a `Port` of their own (arrays,
DataFrames, images, classes with a `codec`) and of ``bytes`` are replaced in it, wherever they are
nested: in lists, dataclasses, typed dicts and models. Core schemas are nested dicts, documented in
``pydantic_core.core_schema``.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, EncodedBytes, EncodedStr, TypeAdapter
from pydantic.warnings import ArbitraryTypeWarning
from pydantic_core import PydanticSerializationUnexpectedValue, core_schema

from mlkit.define.literals import NoJsonForm, by_json_form
from mlkit.define.objects import parts
from mlkit.define.port import Port
from mlkit.define.typing import show, strip
from mlkit.errors import DefinitionError
from mlkit.media.schema import TRIAL

__all__ = [
    "PORT",
    "NoJsonForm",
    "Own",
    "Ported",
    "Replacement",
    "core_schema_of",
    "encoded",
    "function_of",
    "is_encoded",
    "leaves_open",
    "ports",
    "replaced",
]

Own: TypeAlias = Callable[[Any], Port | None]
"""Returns the port of a class that has one of its own."""

_ARBITRARY = ConfigDict(arbitrary_types_allowed=True)

_OPAQUE = {"cls", "config", "default", "expected", "members", "metadata", "ref"}
"""Keys of a node that hold no nested schemas."""

_NO_NODES = {"fields", "choices", "serialization"}
"""Keys of a node that hold nested schemas by name."""

PORT = "mlkit_port"
"""Key in the metadata of a node: its port."""

_TYPE = "mlkit_type"
"""Key in the metadata of a node: its annotation, or its port."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ported:
    """Stands for a type with a port of its own: ``Annotated[Any, Ported(port)]``."""

    port: Port

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.any_schema(metadata={_TYPE: self.port})


def core_schema_of(annotation: Any) -> Any:
    """Return pydantic's core schema of a type.

    Raises:
        DefinitionError: pydantic cannot build one.
    """
    if typing.Final in (annotation, typing.get_origin(annotation)) or type(annotation) is tuple:
        raise _no_type(annotation)
    try:
        # As the item of a list, since models and dataclasses cannot be given a configuration.
        with warnings.catch_warnings():
            warnings.simplefilter("error", ArbitraryTypeWarning)
            core: Any = TypeAdapter(list[annotation], config=_ARBITRARY).core_schema
        kind = core["type"]  # raises if a name in the annotations of a class is not defined
    except ArbitraryTypeWarning:
        raise _no_type(annotation) from None
    except Exception as error:  # a hook of the user's class may raise anything
        message = str(error).partition("\n")[0]
        raise DefinitionError(
            f"values of type {show(annotation)} cannot be serialized: {message}",
            fix="import TypedDict from typing_extensions"
            if "typing_extensions.TypedDict" in message
            else "declare a codec for it: codec(T, encode=..., decode=...)",
        ) from error
    if kind == "definitions":
        return core_schema.definitions_schema(core["schema"]["items_schema"], core["definitions"])
    return core.get("items_schema", core_schema.any_schema())


def _no_type(annotation: Any) -> DefinitionError:
    return DefinitionError(
        f"{show(annotation)} is not the type of a value",
        fix="annotate a type, such as list[float] or tuple[int, str]",
    )


Replacement: TypeAlias = Callable[[dict[str, Any], Any], Any]
"""Returns a node that stands for another, given its configuration, or None."""


def replaced(node: Any, replacement: Replacement, config: Any = None) -> Any:
    """Return a core schema with nodes replaced."""
    if isinstance(node, (list, tuple)):
        return type(node)(replaced(child, replacement, config) for child in node)
    if not isinstance(node, dict):
        return node
    config = node.get("config") or config
    if isinstance(node.get("type"), str):
        new = replacement(node, config)
        if new is not None:
            return new
    return {
        key: child
        if key in _OPAQUE
        else {name: replaced(schema, replacement, config) for name, schema in child.items()}
        if key in _NO_NODES and isinstance(child, dict)
        else replaced(child, replacement, config)
        for key, child in node.items()
    }


def ports(own: Own, core: Any, *, local: bool) -> Replacement:
    """Replace nodes of classes with a port, and of bytes.

    Args:
        own: returns the port of a type, if it has one of its own.
        core: the whole core schema.
        local: accept what a caller in this process may pass, instead of the JSON form.
    """
    shared = {node["ref"]: node for node in core.get("definitions", ())}

    def key_replacement(node: dict[str, Any], config: Any) -> Any:
        node = _resolved(node, shared)
        is_choice = node["type"] in ("enum", "literal")
        return by_json_form(node, keys=True) if is_choice else replacement(node, config)

    def replacement(node: dict[str, Any], config: Any) -> Any:
        if is_encoded(node):  # pydantic's own JSON form of bytes
            return node
        _refuse(node)
        if node["type"] in ("enum", "literal"):
            return by_json_form(node, keys=False)
        if "keys_schema" in node:
            keys = replaced(node["keys_schema"], key_replacement, config)
            return {**_inside(node, replacement, config, but="keys_schema"), "keys_schema": keys}
        if node["type"] == "union":
            return _by_class(node, replacement, config, local)
        if node["type"] == "bytes":
            return _bytes(node, config, own, local)
        if local and (cls := _validated_class(node)) is not None:
            return _or_instance(cls, node, replacement, config)
        return _ported(node, own, local) or _with_computed(node, replacement, config)

    return replacement


def _resolved(node: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """An enum that is used several times, for a reference to it."""
    target = shared.get(node.get("schema_ref", ""), node)
    return target if target["type"] == "enum" else node


def _inside(node: dict[str, Any], replacement: Replacement, config: Any, *, but: str) -> Any:
    """A node with those in it replaced, but for one of its keys."""
    return {
        key: child if key in _OPAQUE or key == but else replaced(child, replacement, config)
        for key, child in node.items()
    }


def _bytes(node: dict[str, Any], config: Any, own: Own, local: bool) -> Any:
    if config and {"ser_json_bytes", "val_json_bytes"} & set(config):
        return None
    port = own(bytes)
    assert port is not None
    validate = _validator(port, local=local)
    return core_schema.no_info_before_validator_function(
        validate, node, serialization=_serialization(port, bytes), metadata={PORT: port}
    )


def _ported(node: dict[str, Any], own: Own, local: bool) -> Any:
    """The node of a class with a port, else None."""
    type_ = (node.get("metadata") or {}).get(_TYPE, node.get("cls"))
    port = type_ if type_ is None or isinstance(type_, Port) else own(type_)
    if port is None:
        return None
    return core_schema.no_info_plain_validator_function(
        _validator(port, local=local),
        serialization=_serialization(port, port.type),
        metadata={PORT: port},
        ref=node.get("ref"),
    )


def _refuse(node: dict[str, Any]) -> None:
    """Raise for types that pydantic accepts, and JSON clients cannot or must not send."""
    name = getattr(function_of(node), "__name__", "")
    if name == "import_string":
        raise NoJsonForm("a caller could import any module: pass a name, and look it up")
    if name == "pattern_bytes_validator":
        raise NoJsonForm("JSON has texts only: annotate re.Pattern[str]")
    if node["type"] == "model" and node["cls"] is BaseModel:
        raise NoJsonForm("annotate models of your own: A | B")


def _validated_class(node: dict[str, Any]) -> Any:
    """The class whose own ``model_validator`` a node is, else None."""
    function, inner = function_of(node), node
    while function is not None and inner.get("type", "").startswith("function-"):
        inner = inner.get("schema", {})
    cls = inner.get("cls") if function is not None else None
    decorators = getattr(cls, "__pydantic_decorators__", None)
    validators = decorators.model_validators.values() if decorators is not None else ()
    return cls if any(validator.func == function for validator in validators) else None


def _or_instance(cls: Any, node: dict[str, Any], replacement: Replacement, config: Any) -> Any:
    """Accept instances of a class as they are: its validators have run on them."""
    inner = {
        key: replaced(child, replacement, config) if key == "schema" else child
        for key, child in node.items()
        if key != "ref"
    }
    return core_schema.no_info_wrap_validator_function(
        lambda value, validate: value if isinstance(value, cls) else validate(value),
        inner,
        ref=node.get("ref"),
    )


def function_of(node: dict[str, Any]) -> Any:
    """The function of a node that calls one, else None."""
    function = node.get("function") if node["type"].startswith("function-") else None
    return function["function"] if isinstance(function, dict) else function


def is_encoded(node: dict[str, Any]) -> bool:
    """Whether a validator decodes text, such as that of `pydantic.Base64Bytes`."""
    return isinstance(getattr(function_of(node), "__self__", None), (EncodedBytes, EncodedStr))


def encoded(node: dict[str, Any], config: Any) -> Any:
    """Have encoders, such as that of `pydantic.Base64Bytes`, return text instead of bytes."""
    if not is_encoded(node):
        return None
    encode = node["serialization"]["function"]

    def text(value: Any) -> str:
        encoded = encode(value)
        return encoded if isinstance(encoded, str) else encoded.decode()

    return {**node, "serialization": {**node["serialization"], "function": text}}


def _by_class(node: dict[str, Any], replacement: Replacement, config: Any, local: bool) -> Any:
    """Leave a value to the member of a union whose class it has.

    Ports take further values, such as an array for an image, and would take those of each other.
    In JSON, a list may be an array as well.
    """
    inner = {
        key: child if key in _OPAQUE else replaced(child, replacement, config)
        for key, child in node.items()
    }
    choices = [choice[0] if isinstance(choice, tuple) else choice for choice in inner["choices"]]
    own_ports = [(choice.get("metadata") or {}).get(PORT) for choice in choices]
    classes = {i: cls for i, port in enumerate(own_ports) if port and (cls := _class_of(port))}
    ported = list(classes)
    if local:
        others = {i: _plain_class(choice) for i, choice in enumerate(choices)}
        classes |= {i: cls for i, cls in others.items() if cls and i not in classes}
    if len(classes) < 2:
        return inner
    for i in ported:
        choices[i] = _unless(choices[i], tuple(cls for j, cls in classes.items() if j != i))
    return {**inner, "choices": choices}


_CLASSES: dict[str, type] = {"dict": dict, "list": list, "str": str, "tuple": tuple}
"""Python's own classes by their nodes, of which ports take values."""


def _plain_class(node: dict[str, Any]) -> Any:
    """The class of Python's own that a node takes and a port might, else None."""
    if node["type"] == "lax-or-strict":  # such as a path, which is opened for bytes
        node = node["strict_schema"]
    return _CLASSES.get(node["type"]) or node.get("python_schema", {}).get("cls")


def _unless(choice: dict[str, Any], others: tuple[type, ...]) -> dict[str, Any]:
    """A node of a port that refuses instances of other classes."""
    function, serialization = choice["function"], choice["serialization"]
    validated, serialized = function["function"], serialization["function"]

    def validate(value: Any) -> Any:
        if isinstance(value, others):
            raise ValueError(f"not for a {type(value).__name__}")
        return validated(value)

    def serialize(value: Any, info: Any) -> Any:
        if isinstance(value, others):
            raise PydanticSerializationUnexpectedValue(f"not for a {type(value).__name__}")
        return serialized(value, info)

    return {
        **choice,
        "function": {**function, "function": validate},
        "serialization": {**serialization, "function": serialize},
    }


def _class_of(port: Port) -> Any:
    bare = strip(port.type)
    cls = typing.get_origin(bare) or bare
    return cls if isinstance(cls, type) else None


def _with_computed(node: dict[str, Any], replacement: Replacement, config: Any) -> Any:
    """Serialize the fields that a dataclass computes itself, which pydantic leaves out."""
    cls: Any = node.get("cls")
    arguments = node.get("schema", {})
    if node["type"] != "dataclass" or arguments.get("type") != "dataclass-args":
        return None
    known = {field["name"] for field in arguments["fields"]}
    missing = [f.name for f in dataclasses.fields(cls) if not f.init and f.name not in known]
    if not missing:
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    schemas = {name: replaced(core_schema_of(hints[name]), replacement) for name in missing}
    computed = [
        core_schema.computed_field(
            name, core_schema.any_schema() if schema["type"] == "definitions" else schema
        )
        for name, schema in schemas.items()
    ]
    whole = {**arguments, "computed_fields": [*arguments.get("computed_fields", ()), *computed]}
    return {**node, "schema": replaced(whole, replacement, config)}


def leaves_open(core: Any) -> bool:
    """Whether a core schema leaves open what some values are, or of which attributes they are."""
    found: list[dict[str, Any]] = []

    def note(node: dict[str, Any], config: Any) -> None:
        if _is_open(node, config or {}):
            found.append(node)

    replaced(core, note)
    return bool(found)


def _is_open(node: dict[str, Any], config: Any) -> bool:
    kind, cls = node["type"], node.get("cls")
    port = (node.get("metadata") or {}).get(PORT)
    if port is not None:
        return bool(port.objects)
    if kind in ("model", "dataclass", "model-fields", "typed-dict"):
        # A dataclass may set attributes that are no fields.
        more = hasattr(cls, "__post_init__") or getattr(cls, "__private_attributes__", None)
        return bool(more) or "allow" in (
            node.get("extra_behavior"),
            config.get("extra_fields_behavior"),
        )
    if kind == "is-instance":
        return not _is_known(cls)
    if kind.startswith("function-plain"):
        return not _is_known(function_of(node))
    items = _ITEMS.get(kind)
    several = node.get("keys_schema", {}).get("type") in ("union", "literal")
    # Keys of several types may have the same text.
    # A moment may be pandas' NaT, which is one by its class, or in a time zone of any class.
    open_ = kind in ("any", "datetime", "time") or several
    return open_ or (items is not None and items not in node)


_ITEMS = {
    "list": "items_schema",
    "set": "items_schema",
    "frozenset": "items_schema",
    "dict": "values_schema",
}
"""Keys of nodes without which items are of any type."""


def _is_known(member: Any) -> bool:
    """Whether a class or a function is of Python or pydantic."""
    package = str(getattr(member, "__module__", "")).partition(".")[0]
    return package in sys.stdlib_module_names or package.startswith("pydantic")


def _validator(port: Port, *, local: bool) -> Callable[[Any], Any]:
    if local:
        return port.local

    def validate(value: Any) -> Any:
        # JSON has values of these types only; code passes any others, but text is never a path.
        if value is None or isinstance(value, (str, bool, int, float, list, dict)):
            return port.from_json(value)
        if port.from_bytes is not None and isinstance(value, (bytes, bytearray, memoryview)):
            return port.from_bytes(bytes(value))
        return port.local(value)

    return validate


def _serialization(port: Port, type_: Any) -> Any:
    """Serialize with a port, but leave values of other types to the other members of a union."""
    bare = strip(type_)
    cls: Any = typing.get_origin(bare) or bare
    known = isinstance(cls, type) and not port.upload  # an upload may be a path, an array and more

    def serialize(value: Any, info: Any) -> Any:
        if value is None or (known and not isinstance(value, cls)):
            raise PydanticSerializationUnexpectedValue(f"not of type {cls}")
        if info.context is TRIAL:  # the objects of an array, and nothing else, are looked at
            return parts(value)
        return port.to_json(value)

    return core_schema.plain_serializer_function_ser_schema(
        serialize, info_arg=True, when_used="json"
    )
