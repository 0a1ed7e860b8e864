"""Values of enums and ``Literal`` by their JSON forms, in the core schemas of pydantic."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Any

import pydantic_core
from pydantic_core import core_schema

from mlkit.define.port import plain

__all__ = ["NoJsonForm", "by_json_form", "by_kind"]


class NoJsonForm(Exception):
    """A type has no JSON form; ``fix`` is the way out."""

    def __init__(self, fix: str) -> None:
        super().__init__(fix)
        self.fix = fix


def by_json_form(node: dict[str, Any], *, keys: bool) -> Any:
    """Accept JSON forms of the values of an enum or a ``Literal`` that pydantic does not look up.

    These are members of an enum in a ``Literal``, values that are no scalars, and, for keys of
    objects, the text of other values.

    Raises:
        NoJsonForm: a value has none.
    """
    is_enum = node["type"] == "enum"
    values = node["members"] if is_enum else node["expected"]
    others = [v for v in values if not isinstance(v.value if is_enum else v, str)]
    flags = is_enum and issubclass(node["cls"], enum.Flag)
    if not others or (node.get("sub_type") and not flags):
        return None
    try:
        forms = [(pydantic_core.to_jsonable_python(v, fallback=plain), v) for v in others]
    except (pydantic_core.PydanticSerializationError, TypeError):
        raise NoJsonForm("give the members values that JSON has, and look the rest up") from None
    texts: dict[str, Any] = {form: v for form, v in forms if type(form) is str}
    texts |= {key: v for v in others for key in _keys(v)} if keys else {}
    for text in {v.value if is_enum else v for v in values if v not in others}:
        texts.pop(text, None)

    def text_of(value: str) -> Any:
        return int(value) if keys and flags and value.isdecimal() else texts.get(value, value)

    return _looked_up(node, [*((v, v) for v in others), *forms], text_of)


def by_kind(node: dict[str, Any]) -> Any:
    """Have the values of a ``Literal`` told apart by type, where pydantic compares them."""
    if all(isinstance(value, str) for value in node["expected"]):
        return None
    return _looked_up(node, [(v, v) for v in node["expected"]], lambda value: value)


def _looked_up(node: dict[str, Any], forms: list[tuple[Any, Any]], text_of: Any) -> Any:
    def member(value: Any, validate: Any) -> Any:
        if type(value) is str:
            return validate(text_of(value))
        found = next(_matching(value, forms), _NONE)
        if found is not _NONE:
            return found
        # True equals 1, as in Python, and is another value in JSON.
        confused = isinstance(value, (bool, int, float)) and any(form == value for form, _ in forms)
        return validate(_NONE if confused else value)

    inner: Any = {key: part for key, part in node.items() if key != "ref"}
    return core_schema.no_info_wrap_validator_function(member, inner, ref=node.get("ref"))


_NONE = object()


def _matching(value: Any, forms: list[tuple[Any, Any]]) -> Iterator[Any]:
    """Values of a form of the same type; then those of a number that equals it."""
    yield from (v for form, v in forms if type(form) is type(value) and form == value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (v for form, v in forms if type(form) in (int, float) and form == value)


def _keys(value: Any) -> Iterable[str]:
    """The text of a value as a key in JSON, if it can be one."""
    try:
        return list(pydantic_core.to_jsonable_python({value: 0}))
    except TypeError:  # the value of a member, such as a list
        return ()
