"""Dataclasses, NamedTuples, typed dicts, protocols and classes with a codec."""

import dataclasses
import datetime as dt
import json
import sys
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Generic, NamedTuple, NotRequired, Protocol, Required, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic as p
from typing_extensions import ReadOnly, TypedDict

from mlkit import codec
from mlkit.media.image import Image
from tests.zoo.ways import Entry

T = TypeVar("T")
IMAGE = Image(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 4, 4)
FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", None]})


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Frozen:
    n: int


@dataclasses.dataclass(slots=True)
class Slotted:
    n: int
    name: str = "a"


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class Keywords:
    n: int
    names: tuple[str, ...] = ()


class Tagged:
    __slots__ = ("tag",)


@dataclasses.dataclass(slots=True)
class SlottedChild(Tagged):
    """The slot of its base is no field."""

    n: int

    def __post_init__(self) -> None:
        self.tag = f"t{self.n}"


@dataclasses.dataclass
class Meters(float):
    unit: str = "m"


@dataclasses.dataclass
class Steps(list[int]):
    unit: str = "m"


@dataclasses.dataclass
class Refusal(Exception):
    code: int


@dataclasses.dataclass
class Child(Point):
    z: float = 1.0


@dataclasses.dataclass
class Area:
    side: float
    area: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.area = self.side**2


@dataclasses.dataclass
class Cents:
    eur: float

    def __post_init__(self) -> None:
        self.eur = self.eur / 100


@dataclasses.dataclass
class Scaled:
    n: int
    by: dataclasses.InitVar[int] = 2

    def __post_init__(self, by: int) -> None:
        self.n *= by


@dataclasses.dataclass
class Hidden:
    n: int
    secret: str = dataclasses.field(default="s", repr=False, compare=False)
    cache: dict[str, int] = dataclasses.field(init=False, default_factory=dict)


@dataclasses.dataclass
class Node:
    n: int
    children: "list[Node]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@dataclasses.dataclass
class Media:
    image: Image
    array: np.ndarray
    frame: pd.DataFrame
    data: bytes = b"d"
    mask: npt.NDArray[np.bool_] | None = None


@dataclasses.dataclass
class Cropped:
    images: list[Image]
    by_name: dict[str, Image] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class WithClassVar:
    n: int
    kind: typing.ClassVar[str] = "k"


@dataclasses.dataclass
class Aliased:
    n: Annotated[int, p.Field(alias="N")]


@dataclasses.dataclass
class Nested:
    point: Point
    points: dict[str, list[Point]]
    maybe: Frozen | None = None


@dataclasses.dataclass
class Ordered:
    when: dt.datetime
    kind: typing.Literal["a", "b"] = "a"
    total: int = dataclasses.field(default=0, metadata={"unit": "g"})


@p.dataclasses.dataclass
class Checked:
    n: Annotated[int, p.Field(ge=0)]
    name: str = p.Field("a", alias="Name", validation_alias="Name")

    @p.field_validator("n")
    @classmethod
    def twice(cls, value: int) -> int:
        return value * 2


@p.dataclasses.dataclass(config=p.ConfigDict(extra="allow"))
class Extra:
    n: int


class Pair(NamedTuple):
    name: str
    score: float = 0.5


class Deep(NamedTuple):
    pair: Pair
    point: Point
    when: dt.date


class GenericPair(NamedTuple, Generic[T]):
    left: T
    right: T


GENERIC_PAIRS = (GenericPair(1, 2),) if sys.version_info >= (3, 12) else ()


class Row(TypedDict):
    n: int
    name: NotRequired[str]


class Partial(TypedDict, total=False):
    n: Required[int]
    when: dt.date
    data: bytes


class Wide(Row):
    more: list[Row]


class Fixed(TypedDict):
    n: ReadOnly[int]


class Open(TypedDict):
    __pydantic_config__ = p.ConfigDict(extra="allow")  # type: ignore[misc]
    n: int


class OfT(TypedDict, Generic[T]):
    item: T


class StandardRow(typing.TypedDict):
    n: int


class Named(Protocol):
    name: str


@typing.runtime_checkable
class Sized(Protocol):
    def size(self) -> int: ...


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __repr__(self) -> str:
        return f"Money({self.cents})"


class Clip:
    def __init__(self, samples: bytes) -> None:
        self.samples = samples


class Ring:
    """A codec whose JSON form is a mapping, documented by a schema."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ring) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass
class Wallet:
    money: Money
    more: list[Money]
    by_name: Mapping[str, Money | None]


class Plain:
    pass


class Word(str):
    pass


class Names(list[str]):
    pass


codec(Money, encode=lambda money: money.cents, decode=lambda cents: Money(int(cents)))
codec(Clip, encode=lambda clip: clip.samples, decode=Clip, media_type="audio/wav")
codec(
    Ring,
    encode=lambda ring: {"items": ring.items},
    decode=lambda tree: Ring(list(map(int, tree["items"]))),
    schema={"type": "object", "properties": {"items": {"type": "array"}}, "required": ["items"]},
)


def _as_text(left: Any, right: Any) -> bool:
    return type(left) is type(right) and repr(left) == repr(right)


def _attributes(left: Any, right: Any) -> bool:
    return type(left) is type(right) and _deep(left) == _deep(right)


def _deep(value: Any) -> Any:
    return json.dumps(value, default=vars) if not isinstance(value, Clip) else vars(value)


def _clips(left: Any, right: Any) -> bool:
    return type(left) is type(right) and [c and c.samples for c in left] == [
        c and c.samples for c in right
    ]


MEDIA = Media(IMAGE, np.arange(3), FRAME, b"\xff", None)

ENTRIES = [
    Entry("dataclass", Point, (Point(1.0), Point(1.5, -0.0, ["a"]))),
    Entry("dataclass-frozen", Frozen, (Frozen(1),)),
    Entry("dataclass-slots", Slotted, (Slotted(1, "b"),)),
    Entry("dataclass-kw_only", Keywords, (Keywords(n=1, names=("a",)),)),
    Entry("dataclass-slots-inherited", SlottedChild, (SlottedChild(1),)),
    Entry("dataclass-float", Meters, (Meters(),)),
    Entry("dataclass-list", Steps, (Steps(),)),
    Entry("dataclass-Exception", Refusal, refused=True),
    Entry("dataclass-inherited", Child, (Child(1.0, 2.0, [], 3.0),)),
    Entry("dataclass-subclass", Point, (Child(1.0, 2.0, [], 3.0),)),
    Entry("dataclass-list-subclass", list[Point], ([Child(1.0), Point(2.0)],)),
    Entry("dataclass-init=False", Area, (Area(3.0),), body={"side": 3.0}),
    Entry("dataclass-post_init", Cents, (Cents(1250.0),)),
    Entry("dataclass-InitVar", Scaled, (Scaled(3),), body={"n": 3, "by": 2}),
    Entry("dataclass-hidden", Hidden, (Hidden(1, "t"),), body={"n": 1}),
    Entry("dataclass-recursive", Node, (Node(1, [Node(2)]),)),
    Entry("dataclass-generic", Box[int], (Box(1),)),
    Entry("dataclass-generic-bare", Box, (Box("a"),)),
    Entry("dataclass-media", Media, (MEDIA, dataclasses.replace(MEDIA, mask=np.array([True])))),
    Entry("dataclass-images", Cropped, (Cropped([IMAGE], {"a": IMAGE}),)),
    Entry("dataclass-ClassVar", WithClassVar, (WithClassVar(1),)),
    Entry("dataclass-alias", Aliased, (Aliased(1),)),
    Entry("dataclass-nested", Nested, (Nested(Point(1.0), {"a": [Point(2.0)]}, Frozen(3)),)),
    Entry("dataclass-stdlib", Ordered, (Ordered(dt.datetime(2026, 1, 2), "b"),)),
    Entry("dataclass-from-dict", Point, ({"x": 1.0},)),
    Entry("dataclass-as-result", Point, (2,), result=lambda n: {"x": n}),
    Entry("dataclass | None", Point | None, (None, Point(1.0))),
    Entry("dataclass | dataclass", Frozen | Slotted, (Frozen(1), Slotted(1, "b"))),
    Entry("dict-of-dataclass", dict[str, Point], ({"a": Point(1.0)},)),
    Entry("pydantic-dataclass", Checked, (Checked(n=3, Name="b"),), body={"n": 3, "Name": "b"}),
    Entry("pydantic-dataclass-extra", Extra, (Extra(n=1, m=2),)),
    Entry("NamedTuple", Pair, (Pair("a"), Pair("b", 1.5))),
    Entry("NamedTuple-nested", Deep, (Deep(Pair("a"), Point(1.0), dt.date(2026, 1, 2)),)),
    # Before Python 3.12, it cannot be pickled.
    Entry("NamedTuple-generic", GenericPair[int], GENERIC_PAIRS, refused=not GENERIC_PAIRS),
    Entry("list[NamedTuple]", list[Pair], ([Pair("a")],)),
    Entry("NamedTuple-as-tuple", Pair, (1,), result=lambda n: ("a", float(n))),
    Entry("TypedDict", Row, ({"n": 1}, {"n": 1, "name": "a"})),
    Entry("TypedDict-total=False", Partial, ({"n": 1}, {"n": 1, "data": b"\xff"})),
    Entry("TypedDict-inherited", Wide, ({"n": 1, "more": [{"n": 2}]},)),
    Entry("TypedDict-ReadOnly", Fixed, ({"n": 1},)),
    Entry("TypedDict-extra", Open, ({"n": 1, "m": [2]},)),
    Entry("TypedDict-generic", OfT[int], ({"item": 1},)),
    Entry("TypedDict-typing", StandardRow, ({"n": 1},), refused=sys.version_info < (3, 12)),
    Entry("list[TypedDict]", list[Row], ([{"n": 1}],)),
    Entry(
        "list[TypedDict-typing]",
        list[StandardRow],
        ([{"n": 1}],),
        refused=sys.version_info < (3, 12),
    ),
    Entry("Protocol", Named, refused=True),
    Entry("Protocol-runtime", Sized, refused=True),
    Entry("codec", Money, (Money(5),), equal=_as_text),
    Entry("codec-schema", Ring, (Ring([1]),)),
    Entry("codec-upload", Clip, (Clip(b"ab"),), equal=_attributes),
    Entry("codec | None", Money | None, (Money(5), None), equal=_as_text),
    Entry("list[codec]", list[Money], ([Money(5)],), equal=_as_text),
    Entry("list[codec-upload]", list[Clip], ([Clip(b"a"), Clip(b"b")],), equal=_clips),
    Entry(
        "codec-in-dataclass",
        Wallet,
        (Wallet(Money(1), [Money(2)], {"a": None}),),
        equal=_attributes,
    ),
    Entry("dict[str, codec]", dict[str, Money], ({"a": Money(1)},), equal=_as_text),
    Entry("class", Plain, refused=True),
    Entry("list[class]", list[Plain], refused=True),
    Entry("dict[str, class]", dict[str, Plain | None], refused=True),
    Entry("str-subclass", Word, refused=True),
    Entry("list-subclass", Names, refused=True),
]
