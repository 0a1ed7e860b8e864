from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mlkit.export.cells import Cell, execute


@pytest.fixture
def notebook(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Returns a function that executes cells as ``__main__``, and returns their variables."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    known = set(linecache.cache)

    def run(*sources: str) -> dict[str, Any]:
        cells = [
            Cell(f"cell {number}", dedent(source).strip("\n"), f"<{tmp_path.name}, {number}>")
            for number, source in enumerate(sources, 1)
        ]
        return execute(cells, lambda statements: statements)

    yield run
    for name in set(linecache.cache) - known:
        del linecache.cache[name]
