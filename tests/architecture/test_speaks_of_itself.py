"""What is committed speaks of the project alone: no place or habit of whoever worked on it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

FORBIDDEN = re.compile(
    r"""
    (?<![\w.]) / (?: work | root | home/\w+ | Users/\w+ ) /   # somebody's folders
    | /tmp/ (?: lab | bash_jobs ) \b | /opt/ (?: wheels | pypi ) \b
    | \.library\b | \.\./shared\b | \b(?i:workplace)\b
    | \b (?i: issue | ticket ) \s \#? \d                     # a tracker that readers cannot see
    | \b (?: pypi\.org | pythonhosted\.org | registry\.npmjs ) \b
    """,
    re.VERBOSE,
)


def tracked(root: Path) -> list[Path]:
    """Returns the files that git tracks."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [root / name for name in names.split("\0") if name and (root / name).is_file()]


def leaks(files: Iterable[Path]) -> Iterator[str]:
    """Yields each line of a text file that names what is not the project's."""
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture, or weights
        for number, line in enumerate(lines, start=1):
            if found := FORBIDDEN.search(line):
                yield f"{file.name}:{number}: {found[0]}"


def test_committed_files_name_no_place_outside(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout: nothing tells which files are the project's")
    files = tracked(repository)
    assert repository / "pyproject.toml" in files
    # This file has to spell out what it looks for.
    assert list(leaks(set(files) - {Path(__file__).resolve()})) == []


@pytest.mark.parametrize(
    "line",
    [
        "see /work/main/x.py",
        'File "/root/x"',
        "/home/ann/x",
        "../shared/data",
        "from pypi.org",
        "Issue 3",
    ],
)
def test_a_leak_is_found(tmp_path: Path, line: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"fine\n{line}\n")
    assert [found.split(": ")[0] for found in leaks([file])] == ["page.md:2"]


@pytest.mark.parametrize(
    "line", ["homework/x", "net/work/x", "https://example.com/work/x", "issues", "/tmp/haproxy"]
)
def test_honest_words_pass(tmp_path: Path, line: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(line)
    assert list(leaks([file])) == []


def test_binary_files_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(b"\xff\xd8/work/\xff")
    assert list(leaks([file])) == []
