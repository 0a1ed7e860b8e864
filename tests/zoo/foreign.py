"""Classes that pydantic learns of, unions of them, and values that a type leaves open."""

import dataclasses
import enum
import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import pandas as pd
import pydantic as p
from pydantic_core import core_schema

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


OPEN: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"\xff\x00",
    "bytes-nested": lambda: {"a": [b"\xff", "b", math.nan]},
    "frame": lambda: FRAME,
    "frame-nested": lambda: [{"a": FRAME}],
    "array": lambda: np.arange(3),
    "NaT": lambda: {"a": np.datetime64("NaT")},
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
    Entry("model-computed-cached", Area, (Area(side=2),)),
    Entry("Enum-of-functions", Operation, refused=True),
    Entry("Enum-of-lists", Split, tuple(Split)),
    Entry("dict[None, int]", dict[None, int], refused=True),
    Entry("dict[frozenset, int]", dict[frozenset[str], int], refused=True),
    Entry("dict[model, int]", dict[Key, int], refused=True),
    Entry("dict[model | str, int]", dict[Key | str, int], refused=True),
    Entry("dict[dataclass, int]", dict[Cell, int], refused=True),
    Entry(
        "dict[tuple, int]-results", dict[tuple[int, int], int], (1,), result=lambda n: {(n, 2): n}
    ),
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
