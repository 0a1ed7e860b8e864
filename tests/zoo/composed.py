"""Types composed at random, of scalars, containers, unions and classes in each other.

``python -m tests.zoo.composed --count 500 --seed 7`` tries more of them than the tests do.
"""

import argparse
import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import fractions
import ipaddress
import itertools
import pathlib
import random
import re
import sys
import traceback
import typing
import uuid
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NotRequired, Required, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic as p
from typing_extensions import NamedTuple, ReadOnly, TypedDict

from mlkit.define.typing import show
from mlkit.media.image import Image
from tests.zoo.classes import Box, Frozen, Money, Pair, Ring
from tests.zoo.models import Animal
from tests.zoo.scalars import Access, Bits, Color, Level, Size, Unit, Weird
from tests.zoo.strategies import values_of
from tests.zoo.ways import Entry, _pipeline, visit

T = TypeVar("T")


class Held(p.BaseModel, Generic[T]):
    item: T
    more: list[T] = []


KEYS: list[Any] = [
    str,
    int,
    float,
    bool,
    dt.date,
    uuid.UUID,
    decimal.Decimal,
    Color,
    Level,
    Size,
    Access,
    Weird,
    Literal["a", 1],
    tuple[int, str],
    Annotated[int, p.Field(ge=0)],
    Frozen,
]
"""Types of keys, and of items of sets."""

SCALARS: list[Any] = [
    *KEYS,
    None,
    int | str,
    Literal[True, 1, "1"],
    Any,
    bytes,
    complex,
    dict,
    dt.datetime,
    dt.time,
    dt.timedelta,
    fractions.Fraction,
    ipaddress.IPv4Address,
    list,
    pathlib.Path,
    re.Pattern,
    object,
    p.SecretStr,
    Annotated[str, p.Field(min_length=1, max_length=3)],
    Annotated[float, p.Field(ge=0, le=1)],
    Animal,
    Bits,
    Box,
    Image,
    Money,
    Pair,
    Ring,
    Unit,
    np.ndarray,
    npt.NDArray[np.float32],
    pd.DataFrame,
]

_numbers = itertools.count()


def compose(draw: random.Random, depth: int) -> Any:
    """Return a type of at most a depth."""
    if depth == 0 or draw.random() < 0.15:
        return draw.choice(SCALARS)
    try:
        return draw.choice(FORMS)(draw, lambda: compose(draw, depth - 1))
    except (TypeError, p.PydanticUserError):  # no type: Python or pydantic refuses it
        return draw.choice(SCALARS)


Inner = Callable[[], Any]


def _union(draw: random.Random, inner: Inner) -> Any:
    members = [inner() for _ in range(draw.randint(2, 3))]
    return typing.Union[tuple(members)]  # noqa: UP007


def _tuple(draw: random.Random, inner: Inner) -> Any:
    return tuple[tuple(inner() for _ in range(draw.randint(1, 3)))]  # type: ignore[misc]


def _fields(draw: random.Random, inner: Inner) -> dict[str, Any]:
    return {name: inner() for name in "abc"[: draw.randint(1, 3)]}


def _model(draw: random.Random, inner: Inner) -> Any:
    fields = _fields(draw, inner)
    defaults = {name: (type_ | None, None) for name, type_ in _optional(draw, fields).items()}
    config = p.ConfigDict(
        arbitrary_types_allowed=True,
        frozen=draw.random() < 0.3,
        extra=draw.choice([None, "forbid", "allow"]),
    )
    name = f"Model{next(_numbers)}"
    required = {name: (type_, ...) for name, type_ in fields.items()}
    return _named(p.create_model(name, __config__=config, **required, **defaults))


def _dataclass(draw: random.Random, inner: Inner) -> Any:
    fields: list[Any] = list(_fields(draw, inner).items())
    if draw.random() < 0.3:
        fields.append(("own", int, dataclasses.field(init=False, default=7)))
    options = {name: draw.random() < 0.4 for name in ("frozen", "slots", "kw_only")}
    return _named(dataclasses.make_dataclass(f"Data{next(_numbers)}", fields, **options))


def _typed_dict(draw: random.Random, inner: Inner) -> Any:
    wraps = [lambda t: t, lambda t: NotRequired[t], lambda t: Required[t], lambda t: ReadOnly[t]]
    fields = {name: draw.choice(wraps)(type_) for name, type_ in _fields(draw, inner).items()}
    return TypedDict(f"Dict{next(_numbers)}", fields, total=draw.random() < 0.7)  # type: ignore[operator]


def _named_tuple(draw: random.Random, inner: Inner) -> Any:
    return _named(NamedTuple(f"Tuple{next(_numbers)}", list(_fields(draw, inner).items())))


def _optional(draw: random.Random, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields taken out, which are to have a default."""
    names = [name for name in fields if draw.random() < 0.3]
    return {name: fields.pop(name) for name in names if fields[name] is not None}


def _named(cls: Any) -> Any:
    """A class that is found by its name, as those of modules are."""
    cls.__module__ = __name__
    setattr(sys.modules[__name__], cls.__name__, cls)
    return cls


FORMS: list[Callable[[random.Random, Inner], Any]] = [
    lambda draw, inner: list[inner()],  # type: ignore[misc]
    lambda draw, inner: dict[draw.choice(KEYS), inner()],  # type: ignore[misc]
    lambda draw, inner: set[draw.choice(KEYS)],  # type: ignore[misc]
    lambda draw, inner: frozenset[draw.choice(KEYS)],  # type: ignore[misc]
    lambda draw, inner: tuple[inner(), ...],  # type: ignore[misc]
    lambda draw, inner: collections.deque[inner()],  # type: ignore[misc]
    lambda draw, inner: collections.OrderedDict[draw.choice(KEYS), inner()],  # type: ignore[misc]
    lambda draw, inner: typing.Optional[inner()],  # noqa: UP045
    lambda draw, inner: Box[inner()],  # type: ignore[misc]
    lambda draw, inner: Held[draw.choice(KEYS[:10])],  # type: ignore[misc]
    _union,
    _union,
    _tuple,
    _model,
    _model,
    _dataclass,
    _dataclass,
    _typed_dict,
    _named_tuple,
]


def wrong(type_: Any, loop: asyncio.AbstractEventLoop, examples: int) -> list[str]:
    """Return what is wrong with a type that is neither refused with a way out nor kept."""
    values = values_of(type_, examples)
    entry = Entry(show(type_), type_, tuple(values), drawn=False)
    problems = _pipeline(entry)[0].problems
    if problems:
        return [f"{problem}: says no way out" for problem in problems if not problem.fix]
    return visit(entry, loop, examples).wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--examples", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    loop = asyncio.new_event_loop()
    failed = 0
    for seed in range(options.seed, options.seed + options.count):
        type_ = compose(random.Random(seed), options.depth)
        try:
            found = wrong(type_, loop, options.examples)
        except Exception:
            found = [traceback.format_exc(limit=-4)]
        found = [line.partition("Traceback")[0] for line in found]
        failed += bool(found)
        if found:
            print(f"--- {seed}: {type_}", *found, sep="\n", flush=True)
    print(f"{options.count} types: {failed} other outcomes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
