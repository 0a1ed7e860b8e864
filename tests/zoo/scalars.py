"""Scalars: Python's, those of its standard library, and pydantic's."""

import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pydantic as p
from hypothesis import strategies as st

from tests.zoo.ways import Entry

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Color(enum.Enum):
    red = "r"
    blue = 2
    both = ("r", 2)


class Size(str, enum.Enum):  # noqa: UP042
    small = "s"
    large = "l"


class Unit(enum.StrEnum):
    gram = enum.auto()
    kilo = enum.auto()


class Level(enum.IntEnum):
    low = 1
    high = 2


class Access(enum.Flag):
    read = enum.auto()
    write = enum.auto()


class Bits(enum.IntFlag):
    a = 1
    b = 2


class Weird(enum.Enum):
    null = None
    true = True
    number = 1.5


Sku = NewType("Sku", str)
Grams = NewType("Grams", float)
Percent = Annotated[float, p.Field(ge=0, le=100)]
Doubled = Annotated[int, p.AfterValidator(lambda value: value * 2)]
Trimmed = Annotated[str, p.BeforeValidator(lambda value: value.strip())]
Halved = Annotated[float, p.WrapValidator(lambda value, handler: handler(value) / 2)]
Padded = Annotated[int, p.PlainSerializer(lambda value: f"{value:05}", return_type=str)]
Padding = Annotated[int, p.PlainSerializer(lambda value: f"{value:05}", when_used="json")]
Wrapped = Annotated[int, p.WrapSerializer(lambda value, handler: [handler(value)])]
Hex = Annotated[
    int,
    p.BeforeValidator(lambda value: int(value, 16) if isinstance(value, str) else value),
    p.PlainSerializer(hex, return_type=str, when_used="json"),
]

TEXTS = ("", " a ", "null", "501", "true", "NaN", "[1]", '"q"', "größe ☃", "a\x00b", "2026-01-01")
FLOATS = (0.0, -0.0, 1.5, 1e308, 5e-324, 1 / 3, 2.0, 1e22)
MOMENTS = (
    dt.datetime(2026, 1, 2, 3, 4, 5, 6),
    dt.datetime(1, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
)

ENTRIES = [
    Entry("bool", bool, (True, False)),
    Entry("int", int, st.integers(-(2**70), 2**70)),
    Entry("int-small", int, (0, 1, -1, 2**63 - 1, -(2**63))),
    Entry("int-big", int, (2**63, 2**64, 10**40, -(10**100))),
    Entry("float", float, st.floats(allow_nan=False, allow_infinity=False)),
    Entry("float-edges", float, FLOATS),
    Entry("float-int", float, (1, 2**53)),
    Entry("complex", complex, (1 + 2j, complex(-0.0, 0.5))),
    Entry("str", str, st.text()),
    Entry("str-edges", str, TEXTS),
    Entry("None", None, (None,)),
    Entry("NoneType", type(None), (None,)),
    Entry("Any", Any, (1, "a", None, [1, {"a": 1.5}], {"a": None}, True)),
    Entry("object", object, (1, "a", None, [1, {"a": 1.5}])),
    Entry("str | None", str | None, (*TEXTS, None)),
    Entry("Optional[int]", Optional[int], (None, 0, 7)),  # noqa: UP045
    Entry("int | str", int | str, (1, "1", "a", "")),
    Entry("str | int", str | int, (1, "1", "a")),
    Entry("int | float", int | float, (1, 1.0, 2.5)),
    Entry("float | int", float | int, (1, 1.0, 2.5)),
    Entry("bool | int", bool | int, (True, 1, 0, False)),
    Entry("int | bool | str | None", int | bool | str | None, (True, 1, "true", None)),
    Entry("Union", Union[int, list[int], dict[str, int]], (1, [1], {"a": 1})),  # noqa: UP007
    Entry(
        "union-left-to-right",
        Annotated[int | str, p.Field(union_mode="left_to_right")],
        (1, "a"),
    ),
    Entry("date | datetime", dt.date | dt.datetime, (dt.date(2026, 1, 2), MOMENTS[0])),
    Entry("str | date", str | dt.date, ("2026-01-01", "a")),
    Entry("Literal", Literal["a", "b"], ("a", "b")),
    Entry("Literal-mixed", Literal["a", 1, True, None], ("a", None)),
    Entry("Literal-numbers", Literal[1, True, "1"], (1, True, "1")),
    Entry("Literal-IntEnum", Literal[1, Level.low, True], (1, Level.low, True)),
    Entry("Literal | str", Literal[1] | str, (1, "1")),
    Entry("Literal | bool", Literal[1] | bool, (1, True)),
    Entry("Enum | str", Color | str, (Color.blue, "2", "a")),
    Entry("str | bytes | Path", str | bytes | pathlib.Path, ("a", b"a", pathlib.Path("a"))),
    Entry("datetime | date", dt.datetime | dt.date, (dt.date(2026, 1, 2), MOMENTS[0])),
    Entry("int-huge", int, (10**5_000,), body=1),
    Entry("int-huge-nested", list[int], ([10**5_000, -1],), body=[1]),
    Entry("bytes | Path", bytes | pathlib.Path, (b"a", pathlib.Path(__file__)), drawn=False),
    Entry("Literal-enum", Literal[Color.red], (Color.red,)),
    Entry("Literal | int", Literal["auto"] | int, ("auto", 3)),
    Entry("Enum", Color, (Color.red, Color.blue)),
    Entry("Enum-tuple", Color, (Color.both,)),
    Entry("Enum-odd", Weird, (Weird.null, Weird.number)),
    Entry("str-Enum", Size, tuple(Size)),
    Entry("StrEnum-auto", Unit, tuple(Unit)),
    Entry("IntEnum", Level, tuple(Level)),
    Entry("Flag", Access, (Access.read, Access.read | Access.write)),
    Entry("IntFlag", Bits, (Bits.a, Bits.a | Bits.b, Bits(0))),
    Entry("Enum | None", Color | None, (Color.red, None)),
    Entry("Decimal", decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Entry(
        "Decimal-edges", decimal.Decimal, tuple(map(decimal.Decimal, ("1.10", "0", "-0", "1E+3")))
    ),
    Entry(
        "Decimal-places",
        Annotated[decimal.Decimal, p.Field(decimal_places=2)],
        (decimal.Decimal("1.10"),),
    ),
    Entry("Fraction", fractions.Fraction, (fractions.Fraction(1, 3), fractions.Fraction(2))),
    Entry("UUID", uuid.UUID, st.uuids()),
    Entry("UUID4", p.UUID4, (uuid.UUID("0b29d8b6-5f46-4d5c-9b9e-111213141516"),)),
    Entry("bytes", bytes, st.binary(min_size=1)),
    Entry("bytes-empty", bytes, (b"",)),
    Entry("bytes-edges", bytes, (b"null", b"\x00\xff", b"data:,a", b"http://a.example")),
    Entry("bytes | None", bytes | None, (b"a", None)),
    Entry("bytes | str", bytes | str, (b"a", "a")),
    Entry("str | bytes", str | bytes, (b"a", "a")),
    Entry("bytearray", bytearray, refused=True),
    Entry("memoryview", memoryview, refused=True),
    Entry("date", dt.date, st.dates()),
    Entry("time", dt.time, (dt.time(1, 2, 3, 4), dt.time(0), dt.time(1, tzinfo=dt.UTC))),
    Entry("datetime", dt.datetime, st.datetimes()),
    Entry("datetime-edges", dt.datetime, MOMENTS),
    Entry("datetime-utc", dt.datetime, (dt.datetime(2026, 1, 2, tzinfo=dt.UTC),)),
    Entry("datetime-zone", dt.datetime, (dt.datetime(2026, 7, 2, tzinfo=BERLIN),)),
    Entry("datetime-fold", dt.datetime, (dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),)),
    Entry(
        "datetime-offset",
        dt.datetime,
        (dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),),
    ),
    Entry("timedelta", dt.timedelta, (dt.timedelta(-1, 3, 5), dt.timedelta(0), dt.timedelta(400))),
    Entry("AwareDatetime", p.AwareDatetime, (dt.datetime(2026, 1, 2, tzinfo=dt.UTC),)),
    Entry("NaiveDatetime", p.NaiveDatetime, (MOMENTS[0],)),
    Entry("PastDate", p.PastDate, (dt.date(2020, 1, 2),)),
    Entry("timezone", dt.timezone, refused=True),
    Entry("tzinfo", dt.tzinfo, refused=True),
    Entry("ZoneInfo", zoneinfo.ZoneInfo, (BERLIN,)),
    Entry("Path", pathlib.Path, (pathlib.Path("/a/b"), pathlib.Path())),
    Entry("PurePosixPath", pathlib.PurePosixPath, (pathlib.PurePosixPath("a/b"),)),
    Entry("PureWindowsPath", pathlib.PureWindowsPath, (pathlib.PureWindowsPath("c:\\a"),)),
    Entry("IPv4Address", ipaddress.IPv4Address, (ipaddress.ip_address("10.0.0.1"),)),
    Entry("IPv6Network", ipaddress.IPv6Network, (ipaddress.ip_network("2001:db8::/32"),)),
    Entry("IPvAnyAddress", p.IPvAnyAddress, (ipaddress.ip_address("::1"),)),
    Entry("re.Pattern", re.Pattern, (re.compile("a.b"),)),
    Entry("re.Pattern[str]", re.Pattern[str], (re.compile("a.b"),)),
    Entry("HttpUrl", p.HttpUrl, (p.HttpUrl("http://a.example/b?c=1"),)),
    Entry("AnyUrl", p.AnyUrl, (p.AnyUrl("ftp://a.example"),)),
    Entry("PostgresDsn", p.PostgresDsn, (p.PostgresDsn("postgres://u:p@h:1/d"),)),
    Entry("SecretStr", p.SecretStr, (p.SecretStr("s"),)),
    Entry("SecretBytes", p.SecretBytes, (p.SecretBytes(b"s"),), body="data:,s"),
    Entry("Secret[int]", p.Secret[int], (p.Secret[int](3),), body=3),
    Entry("Json", p.Json, ('{"a": 1}', "[1]"), body='{"a": 1}'),
    Entry("Json[list[int]]", p.Json[list[int]], ("[1, 2]",), body="[1, 2]"),
    Entry("ByteSize", p.ByteSize, (p.ByteSize(1024),)),
    Entry("conint", p.conint(ge=0, multiple_of=3), (3, 0)),
    Entry("constr", p.constr(min_length=1, strip_whitespace=True), ("a", " b ")),
    Entry("constr-pattern", Annotated[str, p.Field(pattern="^a+$")], ("aa",)),
    Entry("PositiveInt", p.PositiveInt, (3,)),
    Entry("FiniteFloat", p.FiniteFloat, (0.5,)),
    Entry("StrictInt", p.StrictInt, (3,)),
    Entry("StrictBool", p.StrictBool, (True,)),
    Entry("Base64Bytes", p.Base64Bytes, (b"YWI=",), body="YWI="),
    Entry("Base64Str", p.Base64Str, ("YWI=",), body="YWI="),
    Entry("FilePath", p.FilePath, (pathlib.Path(__file__),), drawn=False),
    Entry("DirectoryPath", p.DirectoryPath, (pathlib.Path(__file__).parent,), drawn=False),
    Entry("ImportString", p.ImportString, refused=True),
    Entry("NewType", Sku, ("a", "null")),
    Entry("NewType-float", Grams, (0.5,)),
    Entry("Annotated", Percent, (0.0, 50.5)),
    Entry("AfterValidator", Doubled, (1, 3)),
    Entry("BeforeValidator", Trimmed, (" a ",)),
    Entry("WrapValidator", Halved, (3.0,)),
    Entry("PlainSerializer", Padded, (7,), body=7, answer="00007"),
    Entry("PlainSerializer-json", Padding, (7,), body=7),
    Entry("WrapSerializer", Wrapped, (7,), body=7, answer=[7]),
    Entry("Hex", Hex, (255,), body=255, answer="0xff"),
    Entry(
        "alias-of-parameter", Annotated[int, p.Field(description="how many", examples=[3])], (1,)
    ),
    Entry("type", type, refused=True),
    Entry("type[int]", type[int], refused=True),
    Entry("range", range, refused=True),
    Entry("slice", slice, refused=True),
    Entry("np-int", int, (1,), result=lambda n: __import__("numpy").int64(n)),
    Entry("np-float", float, (1,), result=lambda n: __import__("numpy").float32(n / 3)),
    Entry("np-bool", bool, (1,), result=lambda n: __import__("numpy").bool_(n)),
    Entry("int-as-float", float, (3,), result=lambda n: n),
    Entry("nan", float, (1,), result=lambda n: float("nan")),
    Entry("infinity", float, (1,), result=lambda n: float("-inf")),
    Entry("nan-nested", dict[str, list[float]], (1,), result=lambda n: {"a": [float("nan"), 1.0]}),
    Entry("nan-argument", float | None, (float("nan"), float("inf"))),
    Entry("Decimal-nan", decimal.Decimal, (1,), result=lambda n: decimal.Decimal("NaN")),
    Entry("surrogate", str, (1,), result=lambda n: "a\udc80"),
]
