"""The exact form: whatever goes in comes out, in type and value, without validators and pickle."""

import collections
import datetime as dt
import decimal
import enum
import fractions
import inspect
import ipaddress
import json
import pathlib
import re
import struct
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas.tseries.holiday import USFederalHolidayCalendar
from pydantic import (
    BaseModel,
    Field,
    HttpUrl,
    PrivateAttr,
    RootModel,
    SecretStr,
    TypeAdapter,
    create_model,
    field_validator,
)

from mlkit import codec, pipeline, step
from mlkit.define import registry
from mlkit.define.exact import MAGIC, Exact
from mlkit.errors import InputError, MlkitError
from mlkit.media.image import Image

T = TypeVar("T")


class Price(BaseModel):
    eur: float
    secret: str = Field("", exclude=True)
    _seen: int = PrivateAttr(3)

    @field_validator("eur")
    @classmethod
    def from_cents(cls, value: float) -> float:
        return value / 100


class Offer(Price):
    until: dt.date | None = None


class Page(BaseModel, Generic[T]):
    items: list[T]


class Numbers(RootModel[list[int]]):
    pass


@dataclass(frozen=True, slots=True)
class Square:
    side: float
    area: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", self.side**2)


class Pair(NamedTuple):
    name: str
    score: float


class Kind(enum.Enum):
    shirt = "shirt"
    shoe = 2


class Flags(enum.Flag):
    NEW = 1
    SALE = 2


class Labelled(enum.Enum):
    a = 1

    @property
    def name(self) -> str:  # type: ignore[override]
        return "another"


class Word(str):
    pass


class Names(list):
    pass


@step
def look(x: dict[str, Any]) -> dict[str, Any]:
    return x


@pipeline
def looked(x: dict[str, Any]) -> dict[str, Any]:
    return look(x)


class Ordered(collections.OrderedDict[str, int]):
    pass


class Defaults(collections.defaultdict[str, Any]):
    pass


class Counts(collections.Counter[str]):
    def __setitem__(self, key: str, value: int) -> None:
        super().__setitem__(key, value + 1)


class Recent(collections.deque[int]):
    pass


@dataclass
class Preset:
    """Its second field is an attribute of the class only."""

    n: int
    kind: str = field(init=False, default="a")


@dataclass
class Meters(float):
    unit: str = "m"


class Tagged:
    __slots__ = ("tag",)


@dataclass(frozen=True)
class Slotted(Tagged):
    n: int


class Day(dt.date):
    pass


class Moment(dt.datetime):
    pass


class Amount(decimal.Decimal):
    pass


class Buffer(bytearray):
    pass


class Unit(str):
    __slots__ = ("factor",)


def with_attribute(value: Any) -> Any:
    value.unit = "kg"
    return value


EXACT = Exact(looked.graph)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

VALUES = [
    0,
    10**40,
    True,
    None,
    -0.0,
    1e308,
    float("nan"),
    float("-inf"),
    "größe \x00 \ud800",
    b"\x00\xff",
    bytearray(b"ab"),
    (1, (2, [3])),
    {1: "a", None: "b", (1, 2): "c"},
    {"~": 1, "a": {"~": 2}},
    {1, 2},
    frozenset({"a"}),
    [1.5, float("inf")],
    {"a": [{"b": (1,)}]},
    complex(1, float("inf")),
    decimal.Decimal("1.10"),
    decimal.Decimal("Infinity"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=7),
    dt.datetime(2026, 10, 25, 2, 30, 0, 7, tzinfo=BERLIN, fold=1),
    dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2), "own")),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.date(1, 1, 1),
    dt.time(1, 2, tzinfo=dt.UTC),
    dt.timedelta(-1, 3, 5),
    re.compile("a.b", re.I),
    re.compile(b"a"),
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("c:\\x"),
    ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("10.0.0.1/8"),
    Price(eur=1250, secret="s"),
    Offer(eur=100, until=dt.date(2026, 1, 2)),
    Page[int](items=[1]),
    Page[Price](items=[Offer(eur=2)]),
    Numbers([1, 2]),
    Square(3.0),
    Pair("a", 0.5),
    Kind.shoe,
    Labelled.a,
    Flags.NEW | Flags.SALE,
    Flags(0),
    Word("w"),
    Names([1, Word("x")]),
    HttpUrl("http://a.example/b"),
    SecretStr("s"),
    np.float32(0.1),
    np.int64(3),
    np.bool_(True),
    np.datetime64("2026-01-01"),
    np.arange(6, dtype=np.float16).reshape(2, 3).T,
    np.array(["a", "bc"]),
    np.array([1, None, "a"], dtype=object),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.zeros((0, 3)),
    pd.Timestamp("2026-01-01 00:00:00.123456789", tz="Europe/Berlin"),
    pd.Timestamp("2026-01-01"),
    pd.NaT,
    pd.NA,
    pd.Timedelta("1h"),
    pd.Timestamp("9999-12-31 00:00:00.000001"),
    pd.Timestamp("0001-01-01", tz="Europe/Berlin").as_unit("s"),
    pd.Timestamp("2026-10-25 01:30", tz="UTC").tz_convert("Europe/Berlin"),
    pd.Timestamp("9999-12-31") - pd.Timestamp("1000-01-01"),
    pd.Timedelta(3, "s").as_unit("ms"),
    pd.Series([1, 2], name=3, index=["a", "b"]),
    pd.Index([1, 2], name="q"),
    pd.MultiIndex.from_tuples([(1, "a")], names=["x", "y"]),
    pd.DataFrame({"a": pd.Categorical(["x", "y"]), "b": pd.array([1, None], "Int64")}),
    pd.DataFrame(np.arange(4.0).reshape(2, 2), index=pd.date_range("2026", periods=2, tz="UTC")),
    collections.Counter("aab"),
    collections.OrderedDict(a=1),
    collections.deque([1], maxlen=3),
    Ordered(b=1, a=2),
    Defaults(list, a=[1]),
    Defaults(None),
    Counts("aab"),
    Recent([1, 2], maxlen=2),
    range(1, 9, 2),
    slice(1, None),
    ...,
    Preset(1),
    Day(2026, 1, 2),
    Amount("1.10"),
    Moment(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    Buffer(b"ab"),
    TypeAdapter(dt.datetime).validate_json('"2026-01-01T00:00:00+05:30"'),
]


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, (pd.DataFrame, pd.Series, pd.Index)):
        return left.equals(right) and getattr(left, "name", 0) == getattr(right, "name", 0)
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, repr(left)) == (right.dtype, right.shape, repr(right))
    return (repr(left), getattr(left, "unit", 0)) == (repr(right), getattr(right, "unit", 0))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{value!r:.30}")
def test_a_value_is_restored_in_type_and_value(value: Any) -> None:
    for nested in (value, [value], {"a": (value, 1)}):
        assert same(EXACT.decode(EXACT.encode(nested)), nested)


OFFSETS = [
    pd.DateOffset(months=1, day=31),
    pd.DateOffset(2, days=1, hour=3),
    pd.offsets.CustomBusinessDay(holidays=["2020-01-02"], weekmask="Mon Tue Wed"),
    pd.offsets.CustomBusinessDay(calendar=USFederalHolidayCalendar()),
    pd.offsets.BusinessHour(start=["09:00", "13:00"], end=["12:00", "19:00"]),
    pd.offsets.CustomBusinessMonthEnd(-1, holidays=["2020-01-31"]),
    pd.offsets.BusinessDay(offset=dt.timedelta(hours=2)),
    pd.offsets.Week(2, normalize=True, weekday=2),
    pd.offsets.FY5253Quarter(startingMonth=12, weekday=1, qtr_with_extra_week=1),
    pd.offsets.Easter(),
    pd.offsets.Day(3),
    pd.offsets.Nano(5),
]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_the_frequency_of_an_index_is_kept(offset: Any, zone: str | None) -> None:
    index = pd.date_range("2020-01-01", periods=4, freq=offset, tz=zone)
    for made in (index, index[::2], index.tz_localize(None), index[:0]):
        frame = EXACT.decode(EXACT.encode(pd.DataFrame({"a": 1}, index=made)))
        assert frame.index.equals(made)
        assert frame.index.freq == made.freq


def test_frequencies_of_spans_and_periods_are_kept() -> None:
    indexes = [
        pd.timedelta_range("1h", periods=3, freq="2h"),
        pd.period_range("2026", periods=3, freq="W-SUN"),
        pd.date_range("2026", periods=0, freq="MS"),
        pd.date_range("2026", periods=3, freq="h", tz="UTC").tz_convert("America/New_York"),
        pd.date_range("2026-01-31", periods=4, freq=pd.DateOffset(months=1))[::2],
        pd.DatetimeIndex(["2026-01-01", "2026-01-03"]),
    ]
    for index in indexes:
        restored = EXACT.decode(EXACT.encode(index))
        assert (restored.dtype, restored.freq) == (index.dtype, index.freq)
        assert restored.equals(index)


class Fortnight(pd.offsets.DateOffset):
    pass


def test_a_frequency_of_ones_own_is_refused_before_it_is_sent() -> None:
    index = pd.date_range("2020-01-01", periods=3, freq=Fortnight(weeks=2))
    with pytest.raises(InputError, match="Fortnight have no exact form"):
        EXACT.check(pd.DataFrame({"a": range(3)}, index=index))


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(JSON_LIKE)
def test_any_nesting_is_restored(value: Any) -> None:
    assert same(EXACT.decode(EXACT.encode(value)), value)


def test_private_attributes_and_excluded_fields_are_kept() -> None:
    price = Price(eur=1, secret="s")
    price._seen = 9
    restored = EXACT.decode(EXACT.encode(price))
    assert (restored, restored.secret, restored._seen) == (price, "s", 9)
    assert restored.model_fields_set == {"eur", "secret"}


def test_an_image_keeps_its_pixels() -> None:
    image = Image(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 40, 40)
    restored = EXACT.decode(EXACT.encode([image]))[0]
    assert np.array_equal(restored.pixels, image.pixels)
    assert (restored.width, restored.height) == (40, 40)


@pytest.mark.parametrize(
    "value", [Ordered(b=1, a=2), Defaults(list, a=[1]), Counts("aab"), Recent([1]), Names([1])]
)
def test_a_container_of_ones_own_keeps_order_defaults_and_attributes(value: Any) -> None:
    restored = EXACT.decode(EXACT.encode(with_attribute(value)))
    assert (type(restored), restored.unit) == (type(value), "kg")
    assert list(restored) == list(value)
    assert getattr(restored, "default_factory", 0) == getattr(value, "default_factory", 0)


def test_integers_longer_than_python_reads_are_kept() -> None:
    value = [10**5_000, -(10**5_000), {"a": 1, 2: [3]}, True]
    assert EXACT.decode(EXACT.encode(value)) == value


def test_attributes_in_slots_of_a_subclass_are_kept() -> None:
    unit = Unit("kg")
    unit.factor = 1000
    restored = EXACT.decode(EXACT.encode(unit))
    assert (restored, type(restored), restored.factor) == ("kg", Unit, 1000)


def overridden(base: type, *names: str) -> Any:
    """A subclass whose methods and properties say nothing of its content."""
    members = {
        name: property(lambda self: 1)
        if inspect.isdatadescriptor(getattr(base, name))
        else lambda *args: base()
        for name in names
    }
    return type("Overridden", (base,), {**members, "__module__": "tests.overridden"})


@pytest.mark.parametrize(
    ("base", "names", "arguments", "content"),
    [
        (str, ["__str__", "__iter__", "__getitem__"], ["a"], str.__repr__),
        (bytes, ["__bytes__", "__iter__", "__getitem__"], [b"a"], bytes.__repr__),
        (bytearray, ["copy", "__iter__", "__getitem__"], [b"a"], bytearray.hex),
        (int, ["__int__", "__index__", "__str__"], [7], int.__repr__),
        (float, ["__float__", "__str__", "is_integer"], [1.5], float.__repr__),
        (complex, ["__complex__", "real", "imag"], [complex(-0.0, 2)], complex.__repr__),
        (tuple, ["__iter__", "__getitem__", "__len__"], [(1, 2)], tuple.__repr__),
        (list, ["copy", "__iter__", "__getitem__", "__len__"], [[1]], list.__repr__),
        (dict, ["copy", "keys", "items", "__iter__", "__getitem__"], [{"a": 1}], dict.__repr__),
        (set, ["copy", "__iter__"], [{1}], lambda v: list(set.__iter__(v))),
        (frozenset, ["copy", "__iter__"], [{1}], lambda v: list(frozenset.__iter__(v))),
        (
            collections.deque,
            ["copy", "__iter__", "maxlen"],
            [[1], 3],
            lambda v: list(collections.deque.__iter__(v)),
        ),
        (
            collections.defaultdict,
            ["items", "__iter__", "default_factory"],
            [list, {"a": 1}],
            dict.__repr__,
        ),
        (dt.date, ["year", "month"], [2026, 1, 2], dt.date.__str__),
        (dt.datetime, ["hour", "tzinfo", "fold"], [2026, 1, 2, 3], dt.datetime.__str__),
        (dt.time, ["hour", "tzinfo", "fold"], [2, 3], dt.time.__str__),
        (dt.timedelta, ["days", "total_seconds"], [2, 3], dt.timedelta.__str__),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_methods_of_a_subclass_do_not_change_its_content(
    base: type,
    names: list[str],
    arguments: list[Any],
    content: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls = overridden(base, *names)
    monkeypatch.setitem(sys.modules, "tests.overridden", SimpleNamespace(Overridden=cls))
    value = cls(*arguments)
    restored = EXACT.decode(EXACT.encode(value))
    assert type(restored) is cls
    assert content(restored) == content(value) == content(base(*arguments))


def test_a_memoryview_of_other_items_than_bytes_is_refused() -> None:
    view = memoryview(b"abcd")
    assert EXACT.decode(EXACT.encode(view)) == view
    for other in (view.cast("h"), view.cast("B", [2, 2])):
        with pytest.raises(InputError, match="memoryview"):
            EXACT.check(other)


def test_attributes_of_a_dataclass_that_are_no_fields_are_kept() -> None:
    value = Slotted(1)
    object.__setattr__(value, "tag", "t1")  # in a slot of its base
    object.__setattr__(value, "more", 2)
    restored = EXACT.decode(EXACT.encode(value))
    assert (restored, restored.tag, restored.more) == (value, "t1", 2)


def test_a_dataclass_that_is_a_number_keeps_it() -> None:
    value = float.__new__(Meters, 2.5)
    value.unit = "km"
    restored = EXACT.decode(EXACT.encode(value))
    assert (type(restored), float(restored), restored.unit) == (Meters, 2.5, "km")


def test_a_default_of_the_class_is_no_attribute_of_the_instance() -> None:
    assert vars(EXACT.decode(EXACT.encode(Preset(1)))) == {"n": 1}


def test_classes_of_one_name_and_equal_contents_are_told_apart() -> None:
    def cell() -> Any:
        class Item(BaseModel):
            n: int

        return Item

    old, new = cell(), cell()

    def both(a: Any, b: Any) -> Any:
        return [a, b]

    both.__annotations__ = {"a": old, "b": new, "return": list[old | new]}  # type: ignore[valid-type]
    both_step = step(both)

    def items(a: Any, b: Any) -> Any:
        return both_step(a, b)

    items.__annotations__ = both.__annotations__
    exact = Exact(pipeline(items).graph)
    restored = exact.decode(exact.encode([old(n=1), new(n=2)]))
    assert [type(item) for item in restored] == [old, new]


class Cached(BaseModel):
    n: int

    @cached_property
    def handle(self) -> Any:
        return object()

    @cached_property
    def double(self) -> int:
        return self.n * 2


@dataclass
class CachedPoint:
    n: int

    @cached_property
    def handle(self) -> Any:
        return [b"bytes", object()]

    @cached_property
    def double(self) -> int:
        return self.n * 2


class CachedNames(list[str]):
    @cached_property
    def handle(self) -> Any:
        return object()

    @cached_property
    def double(self) -> int:
        return len(self) * 2


@pytest.mark.parametrize("value", [Cached(n=1), CachedPoint(1), CachedNames("a")])
def test_a_cached_property_without_an_exact_form_is_computed_again(value: Any) -> None:
    assert value.handle is not None
    assert value.double == 2
    before, restored, after = EXACT.decode(EXACT.encode([b"before", value, b"after"]))
    assert (before, restored, after) == (b"before", value, b"after")
    assert vars(restored).get("double") == 2
    assert "handle" not in vars(restored)


def test_a_result_without_an_exact_form_is_an_error_of_the_pipeline() -> None:
    with pytest.raises(MlkitError, match="Foreign have no exact form") as caught:
        EXACT.encode_result(Foreign(1))
    assert caught.value.status == 500
    assert "codec(Foreign" in str(caught.value.fix)


class Foreign:
    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        return Foreign, (self.n,)


def test_a_class_without_a_form_names_the_way_out() -> None:
    with pytest.raises(InputError, match="Foreign have no exact form") as caught:
        EXACT.encode({"a": [Foreign(1)]})
    assert "codec(Foreign" in str(caught.value)


def test_a_codec_is_used() -> None:
    codec(Foreign, encode=lambda foreign: foreign.n.to_bytes(2, "big"), decode=_from_bytes)
    try:
        assert EXACT.decode(EXACT.encode([Foreign(7)]))[0].n == 7
    finally:
        registry._codecs.pop(Foreign)


def _from_bytes(data: bytes) -> Foreign:
    return Foreign(int.from_bytes(data, "big"))


def test_a_class_of_a_cell_is_found_by_the_pipelines_types() -> None:
    names: dict[str, Any] = {"__name__": "__main__", "BaseModel": BaseModel}
    exec("class Shape(BaseModel):\n    n: int\nclass Circle(Shape):\n    r: float\n", names)
    shape, circle = names["Shape"], names["Circle"]

    def draw(x: int):  # type: ignore[no-untyped-def]
        return circle(n=x, r=1.0)

    draw.__annotations__["return"] = shape
    draw_step = step(draw)

    def drawn(x: int):  # type: ignore[no-untyped-def]
        return draw_step(x)

    drawn.__annotations__["return"] = shape
    exact = Exact(pipeline(drawn).graph)
    restored = exact.decode(exact.encode(circle(n=1, r=2.0)))
    assert type(restored) is circle
    with pytest.raises(InputError, match="the class Circle is not known here"):
        EXACT.decode(exact.encode(circle(n=1, r=2.0)))


def exact_of(*types: Any) -> Exact:
    def take(x, y):  # type: ignore[no-untyped-def]
        return x

    take.__annotations__.update(x=types[0], y=types[-1])
    take.__annotations__["return"] = types[0]
    taken = step(take)

    def took(x, y):  # type: ignore[no-untyped-def]
        return taken(x, y)

    took.__annotations__.update(take.__annotations__)
    return Exact(pipeline(took).graph)


def of_factory(default: int) -> Any:
    @dataclass
    class Made:
        n: int = default

    return Made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (create_model("Row", n=(int, ...)), create_model("Row", n=(int, ...), b=(int, 2))),
        (of_factory(1), of_factory(2)),
        (enum.Enum("Mark", "n"), enum.Enum("Mark", ["n", "b"])),
    ],
    ids=["models", "dataclasses", "enums"],
)
def test_two_classes_of_one_name_are_told_apart(first: Any, second: Any) -> None:
    exact = exact_of(first, second)
    values = [cls["n"] if issubclass(cls, enum.Enum) else cls(n=1) for cls in (first, second)]
    assert [type(value) for value in exact.decode(exact.encode(values))] == [first, second]


def test_a_class_that_the_pipeline_does_not_have_is_not_taken_for_one_of_its_name() -> None:
    first, other = create_model("Row", a=(int, ...)), create_model("Row", b=(int, ...))
    with pytest.raises(InputError, match="two classes are named Row") as caught:
        exact_of(first).encode([other(b=1)])
    assert "deploy again" in str(caught.value)


def test_an_instance_of_a_cell_that_was_run_again_is_of_the_pipelines_class() -> None:
    first, again = create_model("Row", a=(int, ...)), create_model("Row", a=(int, ...))
    exact = exact_of(first)
    assert type(exact.decode(exact.encode(again(a=1)))) is first


def _message(tree: Any, data: bytes = b"") -> bytes:
    encoded = json.dumps(tree).encode()
    return MAGIC + struct.pack(">I", len(encoded)) + encoded + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        _message({"~": "nothing"}),
        _message({"~": "model", "c": "os:system", "v": {}}),
        _message({"~": "model", "c": "builtins:object", "v": {}}),
        _message({"~": "dataclass", "c": "builtins:int", "v": {}}),
        _message({"~": "enum", "c": "builtins:int", "n": "a"}),
        _message({"~": "str_of", "c": "builtins:int", "v": ["a", {}]}),
        _message({"~": "path", "c": "subprocess:Popen", "v": "ls"}),
        _message({"~": "path", "c": "builtins:open", "v": "x"}),
        _message({"~": "bytes", "at": [0, 5]}, b"abc"),
        _message({"~": "bytes", "at": [-1, 1]}, b"abc"),
        _message({"~": "UUID", "v": "x"}),
        _message({"~": "class", "v": "x"}),
        _message({"~": "offset", "v": ["__builtins__", 1, False, {}]}),
        MAGIC + struct.pack(">I", 99) + b"{}",
    ],
    ids=repr,
)
def test_malformed_data_is_an_input_error_and_calls_nothing(data: bytes) -> None:
    with pytest.raises(InputError):
        EXACT.decode(data)


def test_a_pickle_in_an_array_is_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    data = buffer.getvalue()
    with pytest.raises(InputError):
        EXACT.decode(_message({"~": "array", "at": [0, len(data)]}, data))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match="contains itself"):
        EXACT.encode(loop)


@dataclass
class Rounded:
    """Its codec keeps whole numbers only."""

    number: float
    handle: Any = None


@pytest.fixture
def rounded_codec() -> Iterator[None]:
    codec(Rounded, encode=lambda value: int(value.number), decode=lambda n: Rounded(float(n)))
    yield
    registry._codecs.pop(Rounded)


@pytest.mark.usefixtures("rounded_codec")
def test_a_dataclass_with_a_lossy_codec_keeps_its_fields() -> None:
    assert EXACT.decode(EXACT.encode(Rounded(1.5))) == Rounded(1.5)


@pytest.mark.usefixtures("rounded_codec")
def test_a_field_without_an_exact_form_leaves_the_value_to_its_codec() -> None:
    values = [b"before", Rounded(1.5, handle=[b"lost", object()]), b"after"]
    assert EXACT.decode(EXACT.encode(values)) == [b"before", Rounded(1.0), b"after"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).T,
        torch.tensor(1.5, dtype=torch.float64),
        torch.tensor([1.1, float("nan")], dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.randn(2, dtype=torch.complex64).conj(),
        torch.zeros(0, 3, dtype=torch.int8),
        torch.randn(3, requires_grad=True),
        torch.nn.Parameter(torch.randn(2)),
        torch.arange(10)[3:5],
    ],
    ids=lambda tensor: f"{type(tensor).__name__}-{tensor.dtype}-{list(tensor.shape)}",
)
def test_tensors_keep_their_dtype_and_every_bit(tensor: torch.Tensor) -> None:
    restored = EXACT.decode(EXACT.encode({"x": tensor}))["x"]
    assert (type(restored), restored.dtype) == (type(tensor), tensor.dtype)
    assert (restored.shape, restored.requires_grad) == (tensor.shape, tensor.requires_grad)
    assert torch.equal(restored.nan_to_num(), tensor.nan_to_num())


def test_a_tensor_that_is_malformed_is_refused() -> None:
    data = EXACT.encode({"x": torch.zeros(4)})
    for old, new in [(b'"shape":[4]', b'"shape":[9]'), (b'"float32"', b'"__loc__"')]:
        with pytest.raises(InputError):
            EXACT.decode(data.replace(old, new))
