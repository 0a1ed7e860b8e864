"""The text of code that travels, so that its tracebacks show lines in other processes too."""

from __future__ import annotations

import inspect
import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlkit.define.code import captured, travels

__all__ = ["MOST_BYTES", "show_sources", "sources_of"]

MOST_BYTES = 2 * 2**20
"""Text that is taken along at most; the rest goes without."""


def sources_of(functions: Iterable[Any]) -> dict[str, str]:
    """The files (a cell is one) of functions and of all they use, by the name in their code."""
    found: dict[str, str] = {}
    room = MOST_BYTES
    for fn in _reached(functions):
        name = fn.__code__.co_filename
        if name not in found:
            text = "".join(linecache.getlines(name))
            if text and len(text) <= room:
                found[name] = text
                room -= len(text)
    return found


def _reached(functions: Iterable[Any]) -> Iterator[types.FunctionType]:
    """Travelling functions, and those they use, each once."""
    left, seen = list(functions), set()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type) and travels(value):
            left += [getattr(member, "__func__", member) for member in vars(value).values()]
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType) and travels(value):
            yield value
            left += captured(value).values()


def show_sources(sources: Mapping[str, str]) -> None:
    """Have tracebacks of this process show them; files that are here already are left alone."""
    for name, text in sources.items():
        if not linecache.getlines(name):
            # Without a time it is not compared with a file on disk, which there is none of.
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
