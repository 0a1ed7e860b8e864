"""The Python of docs/streaming.md runs, and its assertions hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlkit.execute.buffer import AHEAD


def test_the_page_runs_from_top_to_bottom(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "streaming.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"<snippet {number}>", "exec"), names)
    assert len(snippets) == 3
    assert capsys.readouterr().out == "red\nshoe\n"
    assert f"at most {AHEAD} items ahead" in page
