"""The notebooks that are exported in environments of their own can be exported at all."""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exports
from mlkit.errors import MlkitError
from mlkit.export.cells import read_notebook, statements_of
from mlkit.export.examples import golden_inputs
from mlkit.export.notebook import pipeline_of


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    known = set(linecache.cache)
    yield
    sys.modules.pop("rates", None)
    for name in set(linecache.cache) - known:
        del linecache.cache[name]


@pytest.mark.parametrize("name", exports.KINDS)
def test_a_pipeline_of_each_kind_has_golden_requests(name: str, tmp_path: Path) -> None:
    notebook = exports.write_notebook(name, tmp_path / "notebook")
    pipeline, application = pipeline_of(notebook, name, exports.KINDS[name].fastapi)
    assert not pipeline.problems
    assert (application is None) == (exports.KINDS[name].fastapi is None)
    statements = statements_of(read_notebook(notebook))
    assert len(golden_inputs(pipeline, name, statements, None)) >= 2


def test_differences_are_written_down_and_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {"golden": 2, "differences": {"serve": {"2": "no"}}}

    def measured(name: str, wheel: Path, scratch: Path) -> dict[str, Any]:
        if name == "moons":
            raise MlkitError("`pip` failed")
        return found

    monkeypatch.setattr(exports, "_wheel", lambda folder: folder / "mlkit.whl")
    monkeypatch.setattr(exports, "_measured", measured)
    with pytest.raises(MlkitError, match="quote, moons: exported pipelines fail"):
        exports.measure(tmp_path, ["quote", "moons"])
    written = json.loads((tmp_path / "exports.json").read_text())
    assert written["quote"] == found
    assert written["moons"]["failed"] == "`pip` failed"
