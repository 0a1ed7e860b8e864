"""Modules that a process imports from shipped sources."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from mlkit.define.modules import ModuleSource, install

NAME = "made_up_for_this_test"


def source(text: str) -> ModuleSource:
    return ModuleSource(f"/nowhere/{NAME}.py", text, package=False)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    sys.modules.pop(NAME, None)


def test_an_imported_module_cannot_be_replaced_by_another_source() -> None:
    install({NAME: source("x = 1")})
    assert importlib.import_module(NAME).x == 1
    install({NAME: source("x = 1")})  # the same again
    with pytest.raises(ImportError, match="has changed since this process imported it"):
        install({NAME: source("x = 2")})
    assert importlib.import_module(NAME).x == 1


def test_a_module_that_was_not_imported_yet_is_replaced() -> None:
    install({NAME: source("x = 1")})
    install({NAME: source("x = 2")})
    assert importlib.import_module(NAME).x == 2
