"""Sources of values: arguments, results, constants, and combinations of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlkit.define.fresh import fresh, is_shared
from mlkit.errors import InputError

__all__ = [
    "Argument",
    "Choice",
    "Collection",
    "Condition",
    "Constant",
    "Path",
    "Result",
    "Source",
    "brief",
    "part_of",
    "resolver",
    "select",
    "sources",
    "unknown_key",
]

Path: TypeAlias = tuple[str | int, ...]
"""Field names and tuple positions to select from a value, outermost first."""


@dataclass(frozen=True)
class Argument:
    """An argument of the pipeline, or a part of it."""

    name: str
    path: Path = ()

    def __str__(self) -> str:
        return self.name + _written(self.path)


@dataclass(frozen=True)
class Result:
    """The result of a node, or a part of it."""

    node: str
    path: Path = ()

    def __str__(self) -> str:
        return self.node + _written(self.path)


@dataclass(frozen=True, eq=False)
class Constant:
    """A literal in the pipeline."""

    value: Any

    def __str__(self) -> str:
        return brief(self.value)


@dataclass(frozen=True)
class Collection:
    """A list, tuple or dict that holds results: ``combine([a, b])``."""

    kind: type
    items: tuple[Source, ...]
    keys: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.kind is dict:
            pairs = zip(self.keys, self.items, strict=True)
            return f"{{{', '.join(f'{brief(key)}: {item}' for key, item in pairs)}}}"
        inner = ", ".join(map(str, self.items))
        if self.kind is tuple:
            return f"({inner},)" if len(self.items) == 1 else f"({inner})"
        return f"[{inner}]"


@dataclass(frozen=True)
class Choice:
    """One of several values, selected by another: ``branch(kind, {"basic": a, "premium": b})(x)``.

    Attributes:
        on: source of the key.
        arms: pairs of key and source.
        default: source for every other key; None if those are an error.
    """

    on: Source
    arms: tuple[tuple[Any, Source], ...]
    default: Source | None = None

    @property
    def options(self) -> tuple[Source, ...]:
        """All alternatives."""
        others = () if self.default is None else (self.default,)
        return (*(arm for _, arm in self.arms), *others)

    def __str__(self) -> str:
        arms = [f"{brief(key)}: {arm}" for key, arm in self.arms]
        arms += [f"else: {self.default}"] if self.default is not None else []
        return f"{{{', '.join(arms)}}}[{self.on}]"


@dataclass(frozen=True)
class Condition:
    """A node runs only if a value is among some keys; if ``negated``, only if it is not.

    Attributes:
        known: all valid keys, if others are an error.
    """

    on: Source
    keys: tuple[Any, ...]
    negated: bool = False
    known: tuple[Any, ...] = ()

    def __str__(self) -> str:
        keys = " or ".join(map(brief, self.keys))
        return f"{self.on} is {'not ' if self.negated else ''}{keys}"


Source: TypeAlias = Argument | Result | Constant | Collection | Choice
"""Any source of a value."""


def _written(path: Path) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)


def brief(value: Any) -> str:
    """Abbreviate a value's repr to 40 characters, without memory addresses."""
    try:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split()))
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:39] + "…"


def sources(
    source: Source, kind: type[Any] | tuple[type[Any], ...], *, routing: bool = True
) -> Iterator[Any]:
    """Yield every source of a kind within a source, itself included.

    Args:
        source: where to search.
        kind: classes of sources.
        routing: whether to include the keys of branches.
    """
    if isinstance(source, kind):
        yield source
    if isinstance(source, Collection):
        for item in source.items:
            yield from sources(item, kind, routing=routing)
    if isinstance(source, Choice):
        for item in ((source.on,) if routing else ()) + source.options:
            yield from sources(item, kind, routing=routing)


def select(value: Any, path: Path) -> Any:
    """Follow a path into a value."""
    for part in path:
        value = value[part] if isinstance(part, int) else getattr(value, part)
    return value


def resolver(source: Source) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    """Return a function of ``(arguments, results)`` that returns the source's value.

    Each call gets a copy of a constant that can change: a list, a dict, an array.
    """
    match source:
        case Constant(value):
            if is_shared(value):
                return lambda arguments, results: value
            return lambda arguments, results: fresh(value)
        case Argument(name, path):
            return lambda arguments, results: select(arguments[name], path)
        case Result(node, ()):
            return lambda arguments, results: results[node]
        case Result(node, path):
            return lambda arguments, results: select(results[node], path)
        case Choice():
            return _chosen(source)
        case Collection(kind, items, keys):
            parts = [resolver(item) for item in items]
            if kind is dict:
                return lambda a, r: {k: part(a, r) for k, part in zip(keys, parts, strict=True)}
            return lambda a, r: kind(part(a, r) for part in parts)
    raise AssertionError(source)


def part_of(source: Any, part: str | int) -> Any:
    """The source of a part of a source's value."""
    match source:
        case Argument(name, path):
            return Argument(name, (*path, part))
        case Result(node, path):
            return Result(node, (*path, part))
        case Constant(value):
            return Constant(select(value, (part,)))
        case Choice(on, arms, default):
            parts = tuple((key, part_of(arm, part)) for key, arm in arms)
            return Choice(on, parts, None if default is None else part_of(default, part))
        case Collection(_, items, _) if isinstance(part, int):
            return items[part]
    raise AssertionError(source)


def _chosen(choice: Choice) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    on = resolver(choice.on)
    arms = {key: resolver(arm) for key, arm in choice.arms}
    default = None if choice.default is None else resolver(choice.default)

    def value(arguments: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
        key = on(arguments, results)
        arm = arms.get(key, default) if isinstance(key, Hashable) else default
        if arm is None:
            raise unknown_key(choice.on, key, tuple(arms))
        return arm(arguments, results)

    return value


def unknown_key(on: Source | str, key: Any, keys: tuple[Any, ...]) -> InputError:
    """Build the error for a key without an arm."""
    return InputError(
        "a branch has no arm for this key",
        where=on if isinstance(on, str) else f"branch on {on}",
        expected=f"one of {', '.join(map(repr, keys))}",
        got=brief(key),
        fix="add an arm for it, or a default=",
    )
