"""Pipelines of many types, asked made-up requests after and against ``/openapi.json``.

``make contract`` sends 5,000 of them. No answer may be a 500, or have a status, a content type or a
form that the document does not declare.
"""

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import sys
import uuid
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import pandas as pd
import pydantic as p
import schemathesis
from openapi_spec_validator import validate
from typing_extensions import TypedDict

from benchmarks.contract import Findings, fuzz
from mlkit import Image, ImageSource, InputError, pipeline, step
from mlkit.serving import asgi
from tests.zoo.classes import Clip, Money, Pair, Point, Ring
from tests.zoo.data import PNG
from tests.zoo.models import Aliases, Animal, Computed, FromCents, TreeModel
from tests.zoo.scalars import Color, Level


class Item(p.BaseModel):
    """What is ordered."""

    model_config = p.ConfigDict(extra="forbid")
    sku: str = p.Field(pattern=r"^[A-Z]{2}\d{3}$")
    price: Annotated[decimal.Decimal, p.Field(ge=0, max_digits=8, decimal_places=2)]
    colors: set[Color] = set()
    weight: float | None = p.Field(None, gt=0, description="in kg")


class Receipt(p.BaseModel):
    id: uuid.UUID
    total: decimal.Decimal
    due: dt.date
    item: Item
    note: str | None


class Page(p.BaseModel):
    number: p.PositiveInt
    image: Image | None = None
    caption: str = p.Field("", max_length=20)


class Album(p.BaseModel):
    pages: list[Page]
    cover: Image
    sizes: dict[str, tuple[int, int]]


class Row(TypedDict):
    name: str
    score: NotRequired[float]


@dataclasses.dataclass
class Summary:
    rows: list[Row]
    best: Pair | None
    spread: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.spread = float("nan") if self.best is None else self.best.score


@step
def bill(item: Item, quantity: int, note: str | None) -> Receipt:
    due = dt.date(2026, 1, 2)
    return Receipt(id=uuid.UUID(int=1), total=item.price * quantity, due=due, item=item, note=note)


@pipeline
def order(
    item: Item, quantity: Annotated[int, p.Field(ge=1, le=99)] = 1, note: str | None = None
) -> Receipt:
    """Order an item.

    Args:
        item: what to order.
        quantity: how many.
    """
    return bill(item, quantity, note)


@step
def bind(image: Image, title: str, tags: list[str] | None, size: Level) -> Album:
    pages = [Page(number=i, image=image, caption=tag[:20]) for i, tag in enumerate(tags or [], 1)]
    return Album(pages=pages, cover=image, sizes={title: (image.width, int(size))})


@pipeline
def upload(
    image: Image, title: str = "", tags: list[str] | None = None, size: Level = Level.low
) -> Album:
    """A form with a file."""
    return bind(image, title, tags, size)


@step
def brightness(images: list[Image], names: list[str] | None) -> dict[str, float]:
    known = dict(enumerate(names or []))
    return {known.get(i, str(i)): float(image.pixels.mean()) for i, image in enumerate(images)}


@pipeline
def compare(images: list[Image], names: list[str] | None = None) -> dict[str, float]:
    """A form with several files of one name."""
    return brightness(images, names)


@step
def cut(pages: list[Page], at: int) -> dict[str, list[Page]]:
    return {"before": pages[:at], "after": pages[at:]}


@pipeline
def split(pages: list[Page], at: Literal[0, 1, 2] = 0) -> dict[str, list[Page]]:
    """Images in models in a list."""
    return cut(pages, at)


@step
def describe(table: pd.DataFrame, column: str | None) -> pd.DataFrame:
    if column is not None and column not in table:
        raise InputError(f"there is no column {column!r}")
    return table if column is None else table[[column]]


@pipeline
def table(table: pd.DataFrame, column: str | None = None) -> pd.DataFrame:
    """A table, or its rows."""
    return describe(table, column)


@step
def halve(array: np.ndarray, by: float) -> np.ndarray:
    return np.asarray(array / by)


@pipeline
def divide(array: np.ndarray, by: Annotated[float, p.Field(ge=0.5)] = 2.0) -> np.ndarray:
    """An array, or nested lists."""
    return halve(array, by)


@step
def feed(animals: list[Animal], tree: TreeModel | None) -> list[Animal | TreeModel]:
    return [*animals, *([] if tree is None else [tree])]


@pipeline
def zoo(animals: list[Animal], tree: TreeModel | None = None) -> list[Animal | TreeModel]:
    """Discriminated unions and recursive models."""
    return feed(animals, tree)


@step
def count(colors: list[Color], weights: dict[Color, float] | None) -> dict[Color, float]:
    counts = collections.Counter(colors)
    return {color: n * (weights or {}).get(color, 1.0) for color, n in counts.items()}


@pipeline
def tally(colors: list[Color], weights: dict[Color, float] | None = None) -> dict[Color, float]:
    """Enums as items and as keys."""
    return count(colors, weights)


@step
def spend(money: Money, ring: Ring | None) -> tuple[Money, Ring | None]:
    return money, ring


@pipeline
def pay(money: Money, ring: Ring | None = None) -> tuple[Money, Ring | None]:
    """Classes with a codec."""
    return spend(money, ring)


@step
def trim(clip: Clip, length: int | None) -> Clip:
    return Clip(clip.samples[:length])


@pipeline
def listen(clip: Clip, length: Annotated[int, p.Field(ge=1)] | None = None) -> Clip:
    """A class whose values are files."""
    return trim(clip, length)


@step
def rank(rows: list[Row]) -> Summary:
    pairs = [Pair(row["name"], row.get("score", 0.0)) for row in rows]
    return Summary(rows, max(pairs, key=lambda pair: pair.score, default=None))


@pipeline
def ranking(rows: list[Row]) -> Summary:
    """A list of typed dicts."""
    return rank(rows)


@step
def gather(
    when: dt.datetime, took: dt.timedelta, ids: frozenset[uuid.UUID], day: dt.date | None
) -> dict[str, dt.datetime | dt.timedelta | dt.date | list[uuid.UUID] | None]:
    return {"when": when, "took": took, "ids": sorted(ids), "day": day}


@pipeline
def times(
    when: dt.datetime,
    took: dt.timedelta,
    ids: frozenset[uuid.UUID] = frozenset(),
    day: dt.date | None = None,
) -> dict[str, dt.datetime | dt.timedelta | dt.date | list[uuid.UUID] | None]:
    """Dates, durations and ids."""
    return gather(when, took, ids, day)


@step
def convert(model: Aliases, cents: FromCents | None, point: Point | None) -> list[float | Computed]:
    point = point or Point(1.0)
    if abs(point.x) > 1e100:
        raise InputError("too far away")
    return [float(model.n % 7), cents.eur if cents else 0.0, Computed(side=point.x)]


@pipeline
def models(
    model: Aliases, cents: FromCents | None = None, point: Point | None = None
) -> list[float | Computed]:
    """Aliases, validators and computed fields."""
    return convert(model, cents, point)


@step
def measure(source: ImageSource, data: bytes | None) -> Annotated[int, p.Field(ge=0)]:
    return len(source) + len(data or b"")


@pipeline
def sizes(source: ImageSource, data: bytes | None = None) -> Annotated[int, p.Field(ge=0)]:
    """Two files, or URLs."""
    return measure(source, data)


@step
def repeat(anything: Any, times: int | str | None) -> Any:
    return [anything, times]


@pipeline
def echo(anything: Any = None, times: int | str | None = None) -> Any:
    """Optional arguments of any type."""
    return repeat(anything, times)


PIPELINES = (
    order,
    upload,
    compare,
    split,
    table,
    divide,
    zoo,
    tally,
    pay,
    listen,
    ranking,
    times,
    models,
    sizes,
    echo,
)


def ask(pipe: Any, cases: int) -> Findings:
    """Send made-up requests to the application of a pipeline, in this process."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", asgi(pipe))
    validate(schema.raw_schema)
    return fuzz(schema, cases, {}, pictures=[PNG])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="pipelines, by default all")
    parser.add_argument("--cases", type=int, default=5_000, help="requests altogether")
    options = parser.parse_args()
    pipes = [pipe for pipe in PIPELINES if not options.names or pipe.name in options.names]
    each = -(-options.cases // len(pipes))
    total, wrong = 0, []
    for pipe in pipes:
        findings = ask(pipe, each)
        statuses = "  ".join(f"{status}: {n}" for status, n in sorted(findings.statuses.items()))
        print(f"{pipe.name:10} {findings.cases:5} requests   {statuses}", flush=True)
        total += findings.cases
        wrong += findings.wrong
    print(f"\n{total} requests to {len(pipes)} pipelines: {len(wrong)} not as declared")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
