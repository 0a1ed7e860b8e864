"""Render measured figures into README and docs: ``python -m tools.figures [--update]``.

A figure stands in the text before a comment that names it: ``282<!--demo.served_rps:.0f-->``. Its
value is a field of ``docs/measured/demo.json``, in Python's format after the colon. ``--update``
first copies what the commands wrote last from ``build/``.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["SOURCES", "main", "measured", "render"]

SOURCES: Mapping[str, str] = {
    "demo": "build/demo/summary.json",
    "engine": "build/bench/engine.json",
    "observe": "build/bench/observe.json",
    "placement": "build/bench/placement.json",
}
"""What the commands write.

They are ``make demo``, ``make bench BENCH=engine``, ``make bench-observe`` and
``make bench BENCH=placement``.
"""

FIGURE = re.compile(r"(?P<shown>[\d.,]+)(?P<mark><!--(?P<name>[\w.]+):(?P<format>[^>]*?)-->)")


def render(text: str, values: Mapping[str, Any]) -> str:
    """Text with each marked figure as it was measured.

    Raises:
        KeyError: nothing of that name was measured, or only as null; names the mark.
    """

    def replaced(match: re.Match[str]) -> str:
        value: Any = values
        for part in match["name"].split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            raise KeyError(f"{match['mark']} was not measured; see SOURCES for its command")
        return f"{value:{match['format']}}".rstrip("%") + match["mark"]

    return FIGURE.sub(replaced, text)


def measured(root: Path) -> dict[str, Any]:
    """What is kept of each command's last run, by name."""
    folder = root / "docs" / "measured"
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def pages(root: Path) -> list[Path]:
    """The pages that have figures."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def main(root: Path, arguments: list[str]) -> None:
    """Render all pages."""
    if "--update" in arguments:
        for name, source in SOURCES.items():
            if (root / source).exists():
                (root / "docs" / "measured").mkdir(exist_ok=True)
                shutil.copy(root / source, root / "docs" / "measured" / f"{name}.json")
    values = measured(root)
    for page in pages(root):
        before = page.read_text()
        after = render(before, values)
        if after != before:
            page.write_text(after)
            print(f"{page.relative_to(root)}: figures rendered")


if __name__ == "__main__":
    main(Path(__file__).resolve().parents[1], sys.argv[1:])
