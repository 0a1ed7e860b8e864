"""Classes that pydantic learns of, unions of them, and values that a type leaves open."""

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import math
import operator
import re
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import numpy as np
import pandas as pd
import pydantic as p
import torch
from pydantic_core import core_schema

from mlkit.media.audio import Audio
from mlkit.media.image import Image
from tests.zoo.classes import FRAME, IMAGE
from tests.zoo.ways import Entry


class Celsius:
    """A class of a library that does not know pydantic."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees


Temperature = Annotated[
    Celsius,
    p.PlainValidator(lambda v: v if isinstance(v, Celsius) else Celsius(float(v))),
    p.PlainSerializer(lambda v: v.degrees, return_type=float),
    p.WithJsonSchema({"type": "number"}),
]


class Reading(p.BaseModel):
    at: Temperature


class Barcode:
    """A class with a schema of its own."""

    __slots__ = ("digits",)

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Barcode) and other.digits == self.digits

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.json_or_python_schema(
            core_schema.no_info_after_validator_function(cls, core_schema.str_schema()),
            core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.digits, return_schema=core_schema.str_schema()
            ),
        )


class Area(p.BaseModel):
    side: int

    @p.computed_field(alias="Area")  # type: ignore[prop-decorator]
    @functools.cached_property
    def area(self) -> int:
        return self.side**2


class Operation(enum.Enum):
    add = enum.member(operator.add)


class Split(enum.Enum):
    train = [0, 80]  # noqa: RUF012
    test = [80, 100]  # noqa: RUF012


class Key(p.BaseModel):
    model_config = p.ConfigDict(frozen=True)
    n: int


@dataclasses.dataclass(frozen=True)
class Cell:
    row: int


class Place(NamedTuple):
    row: int


class Pickled(Celsius):
    """A class that says itself how it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Pickled, (self.degrees,)


class Restored(Celsius):
    def __setstate__(self, state: dict[str, float]) -> None:
        self.degrees = state["degrees"]


class Closing(Celsius):
    def __del__(self) -> None:
        self.degrees = 0.0


class Made(Celsius):
    def __new__(cls, degrees: float) -> "Made":
        return super().__new__(cls)


class Remade(Made):
    def __getnewargs__(self) -> tuple[float]:
        return (self.degrees,)


class Slotted(Celsius):
    __slots__ = ("unit",)


class Day(dt.date):
    """A subclass of what pydantic knows."""


class Moment(dt.datetime):
    unit: str


class Exactly(decimal.Decimal):
    pass


def _measured(cls: Any) -> Any:
    """A class with a JSON form by annotation, as its author may declare it."""
    return Annotated[
        cls,
        p.PlainValidator(lambda v: v if isinstance(v, cls) else cls(float(v))),
        p.PlainSerializer(lambda v: v.degrees, return_type=float),
        p.WithJsonSchema({"type": "number"}),
    ]


def _parsed(cls: Any, parse: Callable[[str], Any]) -> Any:
    return Annotated[
        cls,
        p.PlainValidator(lambda v: v if isinstance(v, cls) else parse(v)),
        p.PlainSerializer(str, return_type=str),
        p.WithJsonSchema({"type": "string"}),
    ]


MOMENT = Moment(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)
MOMENT.unit = "s"

OPEN: dict[str, Callable[[], Any]] = {
    "image": lambda: IMAGE,
    "image-nested": lambda: [{"a": (IMAGE, np.arange(2))}],
    "sound": lambda: Audio(np.zeros((4, 1)), 8_000),
    "interval": lambda: [pd.Interval(0, 1), pd.Period("2026-01"), pd.NA],
    "series": lambda: [pd.Series([1.5]), pd.Index(["a"]), pd.Categorical(["x"])],
    "tensor": lambda: torch.ones(2, dtype=torch.bfloat16),
    "longdouble": lambda: np.longdouble(1.5),
    "cells": lambda: pd.DataFrame({"a": [uuid.UUID(int=7), 1 + 2j, Split.train]}),
    "bytes": lambda: b"\xff\x00",
    "bytes-nested": lambda: {"a": [b"\xff", "b", math.nan]},
    "frame": lambda: FRAME,
    "frame-nested": lambda: [{"a": FRAME}],
    "array": lambda: np.arange(3),
    "NaT": lambda: {"a": np.datetime64("NaT"), "b": np.array(["2026"], "datetime64[ns]")},
}
"""What a step returns for ``Any``, in a form that JSON clients can read."""


class Report(p.BaseModel):
    encoded: p.Base64Bytes
    rest: Any


REPORT = Report(encoded=b"YWI=", rest=b"\xff")

ENTRIES = [
    Entry("foreign", Temperature, (Celsius(1.5),)),
    Entry("list[foreign]", list[Temperature], ([Celsius(1.5)],)),
    Entry("foreign | None", Temperature | None, (Celsius(1.5), None)),
    Entry("model-foreign", Reading, (Reading(at=Celsius(1.5)),)),
    Entry("own-schema", Barcode, (Barcode("0012"),)),
    Entry("dict[str, own-schema]", dict[str, Barcode], ({"a": Barcode("0012")},)),
    Entry("foreign-__reduce__", _measured(Pickled), refused=True),
    Entry("foreign-__setstate__", _measured(Restored), refused=True),
    Entry("foreign-__del__", list[_measured(Closing)], refused=True),
    Entry("foreign-__new__", _measured(Made), refused=True),
    Entry("foreign-__getnewargs__", _measured(Remade), (Remade(1.5),)),
    Entry("foreign-__slots__", _measured(Slotted), (Slotted(1.5),)),
    Entry("date-subclass", _parsed(Day, Day.fromisoformat), (Day(2026, 1, 2),)),
    Entry("Decimal-subclass", _parsed(Exactly, Exactly), (Exactly("1.10"),)),
    Entry("datetime-subclass", dt.datetime, (MOMENT,)),
    Entry("ndarray | list", np.ndarray | list[float], (np.arange(2.0), [1.0])),
    Entry("DataFrame | dict", pd.DataFrame | dict[str, list[int]], (FRAME, {"a": [1]})),
    Entry("np-scalar-as-ndarray", np.ndarray, (1,), result=np.float64),
    Entry("model-computed-cached", Area, (Area(side=2),)),
    Entry("Enum-of-functions", Operation, refused=True),
    Entry("Enum-of-lists", Split, tuple(Split)),
    Entry("dict[None, int]", dict[None, int], refused=True),
    Entry("dict[frozenset, int]", dict[frozenset[str], int], refused=True),
    Entry("dict[model, int]", dict[Key, int], refused=True),
    Entry("dict[model | str, int]", dict[Key | str, int], refused=True),
    Entry("dict[dataclass, int]", dict[Cell, int], refused=True),
    Entry("dict[NamedTuple, int]", dict[Place, int], refused=True),
    Entry("re.Pattern[bytes]", re.Pattern[bytes], refused=True),
    Entry("Image | DataFrame", Image | pd.DataFrame, (IMAGE, FRAME)),
    Entry("DataFrame | Image", pd.DataFrame | Image, (IMAGE, FRAME)),
    Entry("Image | ndarray", Image | np.ndarray, (IMAGE, np.zeros((2, 2, 3)))),
    Entry("ndarray | DataFrame", np.ndarray | pd.DataFrame, (np.arange(2), FRAME)),
    Entry("list[ndarray | DataFrame]", list[np.ndarray | pd.DataFrame], ([FRAME, np.arange(2)],)),
    Entry("bytes | Image", bytes | Image, (b"\xff", IMAGE), body="data:;base64,/w=="),
    Entry("longdouble", np.ndarray, (1,), result=lambda n: np.array([n], np.longdouble)),
    Entry("Any-results", Any, tuple(OPEN), result=lambda name: OPEN[name]()),
    Entry("dict[str, Any]-results", dict[str, Any], tuple(OPEN), result=lambda n: {n: OPEN[n]()}),
    Entry("model-bytes-results", Report, (1,), result=lambda n: REPORT),
    Entry("a list of a type", [int], refused=True),
    Entry("a pair of types", (int, str), refused=True),
    Entry("a number", 3, refused=True),
    Entry("Final[int]", Final[int], refused=True),
    Entry("ClassVar[int]", ClassVar[int], refused=True),
]
