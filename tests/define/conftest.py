"""What the tests of definitions share: cells, as a notebook would run them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def cell() -> Callable[..., dict[str, Any]]:
    """Runs source as a cell of a notebook does and returns what it defined.

    Each has globals of its own, filled with ``names``; ``filename`` and ``lines_before`` say where
    the code claims to stand.
    """

    def run(
        source: str, *, filename: str = "<cell>", lines_before: int = 0, **names: Any
    ) -> dict[str, Any]:
        namespace = {"__name__": "__main__", **names}
        text = "\n" * lines_before + textwrap.dedent(source)
        exec(compile(text, filename, "exec"), namespace)
        return namespace

    return run
