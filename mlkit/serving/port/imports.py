"""Imports Ray in half the time, where `jsonschema` has all its optional packages.

Ray imports `jsonschema`, which imports `rfc3987_syntax` if it is installed, as by JupyterLab. It
compiles a grammar for seconds, used only to validate IRIs.

As a script, it runs another one like this: ``python imports.py SCRIPT ARGUMENTS``.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["deferred_grammar"]

GRAMMAR = "rfc3987_syntax"


@contextmanager
def deferred_grammar() -> Iterator[None]:
    """Let what is imported meanwhile compile the grammar when it validates an IRI."""
    if GRAMMAR in sys.modules or find_spec(GRAMMAR) is None:
        yield
        return
    stub: Any = ModuleType(GRAMMAR)
    stub.is_valid_syntax = _is_valid_syntax
    sys.modules[GRAMMAR] = stub
    try:
        yield
    finally:
        del sys.modules[GRAMMAR]


def _is_valid_syntax(*arguments: Any) -> Any:
    return import_module(GRAMMAR).is_valid_syntax(*arguments)


if __name__ == "__main__":
    sys.argv.pop(0)
    sys.path[0] = str(Path(sys.argv[0]).parent)
    with deferred_grammar():
        runpy.run_path(sys.argv[0], run_name="__main__")
