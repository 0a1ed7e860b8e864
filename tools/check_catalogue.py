"""Tag the sample catalogue and say how much of it a person agrees with.

    python -m tools.check_catalogue [data/catalogue.csv]

Prints each answer that is wrong, then how many classes (none included) and colours are right. Ends
with status 1 where less than 85% of either is.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlkit.tagging.types import ProductTags

__all__ = ["Checked", "check", "main"]

NEEDED = 0.85


class Checked(NamedTuple):
    """One picture's answer beside what a person says of it.

    Attributes:
        image: path of the picture, as the table has it.
        classes: the right product classes, ``none`` for none of them.
        colours: the right names of the main colour.
        answer: the pipeline's answer.
    """

    image: str
    classes: frozenset[str]
    colours: frozenset[str]
    answer: ProductTags

    @property
    def found_class(self) -> str:
        """The class that was found, or ``none``."""
        return self.answer.product_class.name if self.answer.product_class else "none"

    @property
    def found_colour(self) -> str:
        """The main colour that was found."""
        return self.answer.colours[0].name

    @property
    def class_is_right(self) -> bool:
        """Whether a person would agree with the class."""
        return self.found_class in self.classes

    @property
    def colour_is_right(self) -> bool:
        """Whether a person would agree with the main colour."""
        return self.found_colour in self.colours


def check(table: Path) -> Iterator[Checked]:
    """Tag every picture of a table with columns image, title, product_class and colour.

    The titles are not given to the pipeline: what is checked is what it sees.
    """
    from mlkit.tagging import tag

    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Checked(
                row["image"],
                frozenset((row["product_class"] or "none").split("|")),
                frozenset(row["colour"].split("|")),
                tag(table.parent / row["image"]),
            )


def main(arguments: list[str]) -> int:
    """Check a table, print the outcome, and return the exit status."""
    rows = list(check(Path(arguments[0] if arguments else "data/catalogue.csv")))
    for row in rows:
        for wrong, got, right in (
            (not row.class_is_right, row.found_class, row.classes),
            (not row.colour_is_right, row.found_colour, row.colours),
        ):
            if wrong:
                _say(f"{row.image}: {got}, a person says {' or '.join(sorted(right))}")
    classes = sum(row.class_is_right for row in rows)
    colours = sum(row.colour_is_right for row in rows)
    _say(f"product class right: {classes} of {len(rows)} ({classes / len(rows):.1%})")
    _say(f"main colour right: {colours} of {len(rows)} ({colours / len(rows):.1%})")
    return int(min(classes, colours) < NEEDED * len(rows))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
