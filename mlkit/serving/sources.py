"""Source code of pickled functions, for tracebacks in other processes."""

from __future__ import annotations

import inspect
import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlkit.define.code import captured, travels

__all__ = ["MOST_BYTES", "show_sources", "sources_of"]

MOST_BYTES = 2 * 2**20
"""Maximum total length of sources; further files are left out."""


def sources_of(functions: Iterable[Any]) -> dict[str, str]:
    """Return the sources of functions and everything they use, by file or notebook cell."""
    sources: dict[str, str] = {}
    room = MOST_BYTES
    for fn in _reached(functions):
        name = fn.__code__.co_filename
        if name not in sources:
            text = "".join(linecache.getlines(name))
            if text and len(text) <= room:
                sources[name] = text
                room -= len(text)
    return sources


def _reached(functions: Iterable[Any]) -> Iterator[types.FunctionType]:
    """The functions that are pickled by value, and those they use, each once."""
    pending, seen = list(functions), set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type) and travels(value):
            pending += [getattr(member, "__func__", member) for member in vars(value).values()]
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType) and travels(value):
            yield value
            pending += captured(value).values()


def show_sources(sources: Mapping[str, str]) -> None:
    """Show sources in the tracebacks of this process, except for files that it can read itself."""
    for name, text in sources.items():
        if not linecache.getlines(name):
            # Without a modification time, linecache does not look for a file on disk.
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
