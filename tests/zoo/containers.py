"""Containers of all kinds, with keys and items of all kinds."""

import collections
import collections.abc as abc
import datetime as dt
import decimal
import typing
import uuid
from typing import Annotated, Any, Literal

import pydantic as p
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from tests.zoo.scalars import Access, Color, Level, Size, Sku, Weird
from tests.zoo.ways import Entry

T = typing.TypeVar("T")
Bound = typing.TypeVar("Bound", bound=int)
Numbers = TypeAliasType("Numbers", list[int])
Pairs = TypeAliasType("Pairs", list[tuple[T, T]], type_params=(T,))
Tree = TypeAliasType("Tree", "dict[str, Tree] | list[Tree] | int")  # type: ignore[misc]
Plain: typing.TypeAlias = "list[int]"
U = uuid.UUID(int=7)
DAY = dt.date(2026, 1, 2)

ENTRIES = [
    Entry("list", list, ([1, "a", None], [])),
    Entry("list[int]", list[int], st.lists(st.integers())),
    Entry("list[float]", list[float], ([1.5, -0.0], [])),
    Entry("list[str | None]", list[str | None], (["null", None, ""],)),
    Entry("list[bytes]", list[bytes], ([b"a", b"\xff"],)),
    Entry("list[datetime]", list[dt.datetime], ([dt.datetime(2026, 1, 2, tzinfo=dt.UTC)],)),
    Entry("list[list[int]]", list[list[int]], ([[1], []],)),
    Entry("list[Any]", list[Any], ([1, {"a": [None]}],)),
    Entry("list[Color]", list[Color], ([Color.red, Color.blue],)),
    Entry("list[Sku]", list[Sku], (["a"],)),
    Entry("list-constrained", Annotated[list[int], p.Field(min_length=1)], ([1],)),
    Entry("tuple", tuple, ((1, "a"), ())),
    Entry("tuple[int, str]", tuple[int, str], ((1, "a"),)),
    Entry("tuple[int, ...]", tuple[int, ...], ((1, 2), ())),
    Entry("tuple[()]", tuple[()], ((),)),
    Entry("tuple-nested", tuple[tuple[int, float], list[tuple[str, ...]]], (((1, 0.5), [("a",)]),)),
    Entry("tuple[bytes, int]", tuple[bytes, int], ((b"a", 1),)),
    Entry("set", set, ({1, "a"},)),
    Entry("set[int]", set[int], ({1, 2}, set())),
    Entry("set[str]", set[str], ({"a", "b"},)),
    Entry("set[tuple]", set[tuple[int, int]], ({(1, 2)},)),
    Entry("frozenset[str]", frozenset[str], (frozenset({"a"}),)),
    Entry("set[Color]", set[Color], ({Color.red},)),
    Entry("deque", collections.deque, (collections.deque([1, 2]),)),
    Entry("deque[int]", collections.deque[int], (collections.deque([1, 2], maxlen=3),)),
    Entry("dict", dict, ({"a": 1, "b": [2]}, {})),
    Entry("dict-odd-keys", dict, ({1: "a"},), body={"1": "a"}),
    Entry("dict[str, int]", dict[str, int], st.dictionaries(st.text(), st.integers())),
    Entry("dict[int, str]", dict[int, str], ({1: "a", -3: "b"},)),
    Entry("dict[float, str]", dict[float, str], ({0.5: "a"},)),
    Entry("dict[bool, int]", dict[bool, int], ({True: 1, False: 0},)),
    Entry("dict[UUID, int]", dict[uuid.UUID, int], ({U: 1},)),
    Entry("dict[date, int]", dict[dt.date, int], ({DAY: 1},)),
    Entry("dict[Color, int]", dict[Color, int], ({Color.red: 1},)),
    Entry("dict[Level, int]", dict[Level, int], ({Level.high: 1},)),
    Entry("dict[Size, int]", dict[Size, int], ({Size.small: 1},)),
    Entry("Counter[Color]", collections.Counter[Color], (collections.Counter(list(Color)),)),
    Entry(
        "OrderedDict[Color]",
        collections.OrderedDict[Color, int],
        (collections.OrderedDict(dict.fromkeys(Color, 1)),),
    ),
    Entry("dict[Weird, int]", dict[Weird, int], (dict.fromkeys(Weird, 1),)),
    Entry("dict[str, dict[Color, int]]", dict[str, dict[Color, int]], ({"a": {Color.both: 1}},)),
    Entry("dict[Literal[1], int]", dict[Literal[1], int], ({1: 1},)),
    Entry(
        "dict[Literal[enum], int]",
        dict[Literal[Color.blue, Color.red], int],
        ({Color.blue: 1, Color.red: 1},),
    ),
    Entry(
        "dict[Access, int]", dict[Access, int], ({Access.read: 1, Access.read | Access.write: 2},)
    ),
    Entry("dict[Color | str, int]", dict[Color | str, int], ({Color.red: 1, "a": 2},)),
    Entry("dict[str | None, int]", dict[str | None, int], ({"a": 1},)),
    Entry("dict[Literal, int]", dict[Literal["a", "b"], int], ({"a": 1},)),
    Entry("dict[Decimal, int]", dict[decimal.Decimal, int], ({decimal.Decimal("1.10"): 1},)),
    Entry("dict[tuple, int]", dict[tuple[int, int], int], refused=True),
    Entry("dict[int | None, int]", dict[int | None, int], refused=True),
    Entry("Counter[tuple]", collections.Counter[tuple[int, int]], refused=True),
    Entry("dict[str, dict[tuple]]", dict[str, dict[tuple[str, ...], int]], refused=True),
    Entry("dict[datetime, int]", dict[dt.datetime, int], ({dt.datetime(2026, 1, 2): 1},)),
    Entry("dict[timedelta, int]", dict[dt.timedelta, int], ({dt.timedelta(1, 3): 1},)),
    Entry("dict[enum, enum]", dict[Color, Color | str], ({Color.blue: Color.blue},)),
    Entry("dict[bytes, int]", dict[bytes, int], ({b"a": 1},)),
    Entry("dict[str, Any]", dict[str, Any], ({"a": {"b": [1, None]}, "~": 1},)),
    Entry("dict[str, dict]", dict[str, dict[str, list[int]]], ({"a": {"b": [1]}},)),
    Entry("dict[int | str, int]", dict[int | str, int], ({"a": 1},)),
    Entry(
        "defaultdict",
        collections.defaultdict[str, list[int]],
        (collections.defaultdict(list, a=[1]),),
    ),
    Entry("Counter", collections.Counter[str], (collections.Counter("aab"),)),
    Entry("OrderedDict", collections.OrderedDict[str, int], (collections.OrderedDict(b=1, a=2),)),
    Entry("ChainMap", collections.ChainMap[str, int], refused=True),
    Entry("Sequence[int]", abc.Sequence[int], ([1, 2], (1, 2))),
    Entry("typing.Sequence", typing.Sequence[str], (["a"], ("a",))),
    Entry("Sequence", abc.Sequence, ([1, 2],)),
    Entry("MutableSequence", abc.MutableSequence[int], ([1],)),
    Entry("Collection", abc.Collection[int], refused=True),
    Entry("Set", abc.Set[int], ({1},)),
    Entry("Mapping", abc.Mapping[str, int], ({"a": 1},)),
    Entry("MutableMapping", abc.MutableMapping[str, int], ({"a": 1},)),
    Entry("Mapping-bare", abc.Mapping, ({"a": 1},)),
    Entry("Iterable[int]", abc.Iterable[int], refused=True),
    Entry("Iterator[int]", abc.Iterator[int], refused=True),
    Entry("Generator", abc.Generator[int, None, None], refused=True),
    Entry("AsyncIterator", abc.AsyncIterator[int], refused=True),
    Entry("list[Iterable]", list[abc.Iterable[int]], refused=True),
    Entry("Iterable | None", abc.Iterable[int] | None, refused=True),
    Entry("TypeAliasType", Numbers, ([1],)),
    Entry("alias-generic", Pairs[int], ([(1, 2)],)),
    Entry("alias-recursive", Tree, ({"a": [1, {"b": 2}]}, 3)),
    Entry("alias-text", "list[int]", ([1],)),
    Entry("alias-typing", Plain, ([1],)),
    Entry("TypeVar", T, (1, "a", [None])),
    Entry("TypeVar-bound", list[Bound], ([1],)),
    Entry("list[T]", list[T], ([1, "a"],)),
    Entry("list-or-one", list[int] | int, ([1], 1)),
    Entry("list | tuple", list[int] | tuple[int, ...], ([1], (1,))),
    Entry("dict | list", dict[str, int] | list[int], ({"a": 1}, [1])),
    Entry("Optional-nested", dict[str, list[int] | None] | None, ({"a": None}, None)),
    Entry("array-as-list", list[float], (2,), result=lambda n: __import__("numpy").ones(n)),
    Entry(
        "np-in-dict", dict[str, float], (2,), result=lambda n: {"a": __import__("numpy").float32(n)}
    ),
    Entry("tuple-as-Sequence", abc.Sequence[int], (2,), result=lambda n: (n, n)),
]
