"""The Python of docs/fastapi.md runs, and its assertions hold."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_page_runs_from_top_to_bottom(repository: Path, capsys) -> None:
    page = (repository / "docs" / "fastapi.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"<snippet {number}>", "exec"), names)
    assert len(snippets) >= 9
    assert "indexed ['red', 'shoe']" in capsys.readouterr().out


def test_every_other_snippet_is_run_in_a_browser(repository: Path) -> None:
    page = (repository / "docs" / "fastapi.md").read_text()
    assert set(re.findall(r"^```(\w+)$", page, re.MULTILINE)) == {"python", "javascript"}
