"""Source code of pickled functions, for tracebacks in other processes."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from typing import Any

from mlkit.define.modules import functions_of

__all__ = ["MOST_BYTES", "show_sources", "sources_of"]

MOST_BYTES = 2 * 2**20
"""Maximum total length of sources; further files are left out."""


def sources_of(functions: Iterable[Any]) -> dict[str, str]:
    """Return the sources of functions and everything they use, by file or notebook cell."""
    sources: dict[str, str] = {}
    room = MOST_BYTES
    for fn in functions_of(functions):
        name = fn.__code__.co_filename
        if name not in sources:
            text = "".join(linecache.getlines(name))
            if text and len(text) <= room:
                sources[name] = text
                room -= len(text)
    return sources


def show_sources(sources: Mapping[str, str]) -> None:
    """Show sources in the tracebacks of this process, except for files that it can read itself."""
    for name, text in sources.items():
        if not linecache.getlines(name):
            # Without a modification time, linecache does not look for a file on disk.
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
