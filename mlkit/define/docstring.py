"""Parsed docstrings, in Google, NumPy or Sphinx style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import docstring_parser

__all__ = ["Words", "words"]


@dataclass(frozen=True)
class Words:
    """The parts of a docstring.

    Attributes:
        summary: the first paragraph, on one line.
        description: everything but the sections on arguments, result and errors.
        arguments: descriptions by name.
        returns: description of the result, or "".
    """

    summary: str = ""
    description: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    returns: str = ""


@lru_cache(maxsize=256)
def words(doc: str) -> Words:
    """Parse a docstring; one that cannot be parsed is all description."""
    try:
        sections = docstring_parser.parse(doc)
    except docstring_parser.ParseError:
        return Words(_line(doc.partition("\n\n")[0]), doc)
    parts = (sections.short_description, sections.long_description)
    return Words(
        _line(sections.short_description or ""),
        "\n\n".join(part for part in parts if part),
        {p.arg_name: _line(p.description) for p in sections.params if p.description},
        _line((sections.returns and sections.returns.description) or ""),
    )


def _line(text: str) -> str:
    return " ".join(text.split())
