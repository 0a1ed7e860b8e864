"""A docstring taken apart: Google's, NumPy's and Sphinx's ways of writing one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import docstring_parser

__all__ = ["Words", "words"]


@dataclass(frozen=True)
class Words:
    """What a docstring says.

    Attributes:
        summary: its first paragraph, on one line.
        description: all of it but what is said of arguments, result and errors.
        arguments: what is said of each, by name.
        returns: what is said of the result, or "".
    """

    summary: str = ""
    description: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    returns: str = ""


@lru_cache(maxsize=256)
def words(doc: str) -> Words:
    """Take a docstring apart; one that nobody can make sense of is all description."""
    try:
        found = docstring_parser.parse(doc)
    except docstring_parser.ParseError:
        return Words(_line(doc.partition("\n\n")[0]), doc)
    parts = (found.short_description, found.long_description)
    return Words(
        _line(found.short_description or ""),
        "\n\n".join(part for part in parts if part),
        {p.arg_name: _line(p.description) for p in found.params if p.description},
        _line((found.returns and found.returns.description) or ""),
    )


def _line(text: str) -> str:
    return " ".join(text.split())
