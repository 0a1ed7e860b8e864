"""Modules that a process imports from shipped sources."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlkit.define.modules import ModuleSource, install, local_sources

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


def test_attributes_of_classes_that_a_cell_has_set_are_sent_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
import enum, dataclasses, typing, pydantic
class Config:
    scale: int = 1
    names = ["a"]
    other = None
class Kind(enum.Enum):
    a = 1
class Number(enum.IntEnum):
    a = 1
class Named(typing.NamedTuple):
    x: int = 3
@dataclasses.dataclass(slots=True)
class Point:
    x: int = 3
class Model(pydantic.BaseModel):
    model_config = {"frozen": True}
    x: int = 3
    _y: int = 4
"""
    (tmp_path / f"{NAME}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(NAME)
    assert local_sources([NAME])[NAME].changed == ()
    module.Config.scale = 5
    module.Config.names.append("b")
    (shipped,) = local_sources([NAME]).values()
    assert shipped.changed == (("Config.names", ["a", "b"]), ("Config.scale", 5))
    sys.modules.pop(NAME)
    install({NAME: shipped})
    again = importlib.import_module(NAME).Config
    assert again is not module.Config
    assert (again.scale, again.names, again.other) == (5, ["a", "b"], None)
