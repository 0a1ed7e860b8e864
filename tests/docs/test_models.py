"""The Python of docs/models.md runs, and gives what its comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlkit.define.shipping import dumps, loads
from mlkit.models.pool import WAIT_S


def test_the_page_runs_from_top_to_bottom(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLKIT_MODELS_DIR", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs" / "models.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"<snippet {number}>", "exec", dont_inherit=True), names)
    shown = r'^((?:where|where_by|bank|trained)[.(].*)  # ("\w+"|\(.*\))$'
    results = dict(re.findall(shown, page, re.MULTILINE))
    assert len(results) == 4
    for expression, expected in results.items():
        assert eval(expression, names) == eval(expected)
    for pipeline in (names["where"], names["where_by"]):
        assert pipeline.problems == ()
        loads(dumps(pipeline.graph))  # as for a replica
    assert list(names["models"].list().index) == ["circle:v1", "disc:v1", "disc-again:v1"]
    assert f"wait_s={WAIT_S:.0f}" in page
