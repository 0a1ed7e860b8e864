"""Colours are named in one module."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mlkit.views import palette
from mlkit.views.run import to_html
from mlkit.views.templating import render

LITERAL = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|oklch)\(|\"(?:white|black|grey|gray)\"")


def literals(folder: Path) -> dict[str, list[str]]:
    """Returns the colour literals of each Python module and template under a folder."""
    files = [file for kind in ("*.py", "*.j2") for file in folder.rglob(kind)]
    return {
        file.relative_to(folder).as_posix(): found
        for file in sorted(files)
        if (found := LITERAL.findall(file.read_text()))
    }


def test_colours_stand_in_the_palette_alone_and_once(repository: Path) -> None:
    by_file = literals(repository / "mlkit" / "views")
    assert list(by_file) == ["palette.py"]
    counts = Counter(colour.lower() for colour in by_file["palette.py"])
    assert max(counts.values()) == 1
    assert set(counts) == {getattr(palette, name) for name in palette.__all__}


def test_templates_and_figures_use_the_palette(chain) -> None:
    from mlkit.views.mpl.style import STYLE

    assert f"--mk-served: {palette.SERVED};" in render("live.css.j2")
    assert f"--mk-waiting: {palette.WAITING};" in to_html(chain("a").run("1"))
    assert STYLE["text.color"] == palette.INK


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours after WCAG 2.2: from 1 to 21."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", ["", "_DARK"])
@pytest.mark.parametrize("name", ["INK", "QUIET", "ERROR_TEXT"])
def test_text_has_contrast(name: str, dark: str) -> None:
    ground = getattr(palette, f"GROUND{dark}")
    assert contrast(getattr(palette, f"{name}{dark}"), ground) > 4.5


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('color="#d55e00"', ["#d55e00"]),
        ("border: 1px solid rgba(0,0,0,.2)", ["rgba("]),
        ('mfc="white"', ['"white"']),
        ("{# a comment #} &#39; var(--mk-ink)", []),
    ],
)
def test_a_colour_out_of_place_is_found(tmp_path: Path, source: str, found: list[str]) -> None:
    (tmp_path / "view.py").write_text(source)
    assert literals(tmp_path).get("view.py", []) == found
