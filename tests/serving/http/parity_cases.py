"""Functions with types as in the documentation of pydantic and FastAPI, and requests for them.

Each is served twice, by FastAPI alone and as a pipeline of mlkit, by `test_parity`.
"""

from __future__ import annotations

import enum
import ipaddress
import pathlib
import re
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar

import pydantic.dataclasses
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    Json,
    NonNegativeFloat,
    PlainSerializer,
    PositiveInt,
    PrivateAttr,
    RootModel,
    SecretStr,
    StrictInt,
    StringConstraints,
    Tag,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypeAliasType, TypedDict

__all__ = ["CASES", "FORMS", "Case", "Form"]

T = TypeVar("T")
Number = TypeVar("Number", bound=float)


@dataclass(frozen=True)
class Case:
    """A function, and JSON bodies that it accepts and refuses."""

    fn: Callable[..., Any]
    accepted: tuple[Any, ...]
    refused: tuple[Any, ...]


@dataclass(frozen=True)
class Form:
    """A function, and forms for it: keywords of a request, by what they show."""

    fn: Callable[..., Any]
    requests: dict[str, dict[str, Any]]


CASES: list[Case] = []
FORMS: list[Form] = []


def json_case(*accepted: Any, refused: Sequence[Any] = ()) -> Callable[[Any], Any]:
    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append(Case(fn, accepted, tuple(refused)))
        return fn

    return add


def form_case(**requests: dict[str, Any]) -> Callable[[Any], Any]:
    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        FORMS.append(Form(fn, requests))
        return fn

    return add


# Scalars, and how lax they are


@json_case(
    {"count": 3, "ratio": 0.5, "ready": True, "name": "grün ☃"},
    {"count": "3", "ratio": 1, "ready": "yes", "name": ""},
    {"count": 3.0, "ratio": "1e3", "ready": 0, "name": "x", "unknown": [1]},
    refused=[
        {"count": 3.5, "ratio": "half", "ready": "perhaps", "name": 3},
        {"count": None, "ratio": None, "ready": None, "name": None},
        {"count": 10**30 + 0.5, "ratio": [], "ready": 2, "name": {}},
        {},
    ],
)
def scalars(count: int, ratio: float, ready: bool, name: str) -> dict[str, Any]:
    return {"count": count, "ratio": ratio, "ready": ready, "name": name}


@json_case({"number": 10**40}, {"number": -1}, refused=[{"number": "1_000x"}])
def large_number(number: int) -> int:
    return number


@json_case(
    {"required": None, "optional": 3},
    {"required": 1},
    refused=[{"optional": 3}, {"required": "x", "optional": "y"}],
)
def nullable(required: int | None, optional: int | None = None) -> list[int | None]:
    return [required, optional]


@json_case({}, {"limit": 5}, {"tags": []}, refused=[{"limit": 0}, {"tags": "a"}])
def defaults(
    limit: Annotated[int, Field(gt=0)] = 10,
    tags: list[str] = ["new"],  # noqa: B006
) -> tuple[int, list[str]]:
    return limit, tags


@json_case(
    {"count": 3, "name": "ab1", "scores": [1.0, 2.5], "share": 0.25},
    refused=[
        {"count": 0, "name": "AB", "scores": [], "share": 0.3},
        {"count": 11, "name": "abcdefghi", "scores": [1, 2, 3, 4], "share": 1.25},
    ],
)
def constrained(
    count: Annotated[int, Field(ge=1, le=10)],
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+$", max_length=8)],
    scores: Annotated[list[float], Field(min_length=1, max_length=3)],
    share: Annotated[float, Field(multiple_of=0.25, lt=1)],
) -> str:
    return f"{count} {name} {scores} {share}"


@json_case({"count": 1, "size": 0, "strict": 3}, refused=[{"count": 0, "size": -1, "strict": "3"}])
def ready_made_constraints(count: PositiveInt, size: NonNegativeFloat, strict: StrictInt) -> float:
    return count + size + strict


@json_case(
    {"numbers": [1, "2"], "weights": {"1": 0.5}, "pair": [1, "a"], "row": [1, 2, 3]},
    refused=[
        {"numbers": "12", "weights": {"x": "y"}, "pair": [1], "row": [1, "x"]},
        {"numbers": {"a": 1}, "weights": [], "pair": [1, "a", 2], "row": None},
    ],
)
def containers(
    numbers: list[int],
    weights: dict[int, float],
    pair: tuple[int, str],
    row: tuple[int, ...],
) -> dict[str, Any]:
    return {"numbers": numbers, "weights": weights, "pair": pair, "row": row}


@json_case(
    {"numbers": [1, 2], "weights": {"a": 1}, "recent": [3, 4, 5]},
    refused=[{"numbers": 1, "weights": 2, "recent": 3}],
)
def abstract_containers(
    numbers: Sequence[int], weights: Mapping[str, float], recent: deque[int]
) -> Mapping[str, Sequence[int]]:
    return {"numbers": numbers, "recent": list(recent), "weights": [len(weights)]}


@json_case({"value": {"any": [1, None, "x"]}, "table": {}, "items": [1, "a"]}, {"value": None})
def untyped(value: Any, table: dict = {}, items: list = []) -> Any:  # type: ignore[type-arg]  # noqa: B006
    return [value, table, items]


@json_case({"names": ["a", "b", "a"]}, {"names": []}, refused=[{"names": "a"}, {"names": [1]}])
def unique(names: frozenset[str]) -> list[str]:
    return sorted(names)


# Extra data types


@json_case(
    {
        "key": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "moment": "2026-01-02T03:04:05+02:00",
        "day": "2026-01-02",
        "hour": "14:23:55.003",
        "after": "P3DT12H30M5S",
    },
    {"key": "3f2504e04f8911d39a0c0305e82c3301", "moment": 0, "day": 0, "hour": 0, "after": 1.5},
    {
        "key": "urn:uuid:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "moment": "2026-01-02 03:04",
        "day": "2026-01-02T00:00:00",
        "hour": "03:04Z",
        "after": "00:00:01",
    },
    refused=[{"key": "x", "moment": "today", "day": "2026-13-01", "hour": "25:00", "after": "P"}],
)
def extra_data_types(
    key: uuid.UUID, moment: datetime, day: date, hour: time, after: timedelta
) -> dict[str, uuid.UUID | datetime | date | time | timedelta]:
    return {"key": key, "moment": moment + after, "day": day, "hour": hour, "after": after}


class Reading(BaseModel):
    key: uuid.UUID
    at: datetime
    span: timedelta = timedelta(hours=1)
    price: Decimal = Decimal("1.10")
    tags: frozenset[str] = frozenset()


@json_case(
    {"reading": {"key": str(uuid.UUID(int=7)), "at": "2026-01-02T03:04:05Z"}},
    {"reading": {"key": str(uuid.UUID(int=7)), "at": 1, "price": "0.30", "tags": ["a"]}},
    refused=[{"reading": {"key": 7, "at": "x", "span": [], "price": "much", "tags": [1]}}],
)
def extra_data_types_in_a_model(reading: Reading) -> Reading:
    return reading


@json_case(
    {"price": "12.30"},
    {"price": 1},
    {"price": 0.1},
    refused=[{"price": "12.345"}, {"price": "NaN"}, {"price": "1e9"}],
)
def money(price: Annotated[Decimal, Field(max_digits=6, decimal_places=2)]) -> Decimal:
    return price * 2


@json_case(
    {"page": "https://example.com", "host": "10.0.0.1", "file": "a/b", "pattern": "^a+$"},
    refused=[{"page": "example", "host": "10.0.0", "file": 3, "pattern": "("}],
)
def addresses(
    page: HttpUrl,
    host: ipaddress.IPv4Address,
    file: pathlib.PurePosixPath,
    pattern: re.Pattern[str],
) -> dict[str, HttpUrl | ipaddress.IPv4Address | pathlib.PurePosixPath | re.Pattern[str]]:
    return {"page": page, "host": host, "file": file, "pattern": pattern}


@json_case(
    {"password": "s3cret", "size": "1.5 KiB", "raw": "[1, 2]"},
    {"password": "", "size": 10, "raw": "[]"},
    refused=[{"password": 1, "size": "big", "raw": "[1, 'a']"}, {"password": "", "raw": [1]}],
)
def special_types(password: SecretStr, size: ByteSize, raw: Json[list[int]]) -> dict[str, Any]:
    return {"password": password, "size": size, "raw": raw, "length": len(password)}


# Choices


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Priority(enum.IntEnum):
    LOW = 1
    HIGH = 2


@json_case(
    {"size": "s", "priority": 2, "unit": "kg"},
    {"size": "l", "priority": "1", "unit": "g", "mode": 2},
    refused=[{"size": "SMALL", "priority": 3, "unit": "KG"}, {"size": None, "unit": 1, "mode": 3}],
)
def choices(
    size: Size, priority: Priority, unit: Literal["g", "kg"], mode: Literal[1, 2] = 1
) -> dict[Size, list[Any]]:
    return {size: [size, priority, unit, mode]}


@json_case({"value": 1}, {"value": "1"}, {"value": 1.5}, {"value": True}, refused=[{"value": []}])
def smart_union(value: int | str | float | bool) -> str:
    return f"{type(value).__name__} {value!r}"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    barks: float


@json_case(
    {"pet": {"kind": "cat"}},
    {"pet": {"kind": "dog", "barks": 0.5}},
    refused=[{"pet": {"kind": "fish"}}, {"pet": {}}, {"pet": {"kind": "dog", "barks": "loud"}}],
)
def discriminated(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Cat | Dog:
    return pet


class Household(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    favourite: Cat | Dog | None = None


@json_case(
    {"home": {}},
    {"home": {"pets": [{"kind": "dog", "barks": 1}], "favourite": {"kind": "cat", "lives": 1}}},
    refused=[
        {"home": {"pets": [{"kind": "dog"}, {"kind": "cow"}]}},
        {"home": {"favourite": {"lives": "many"}}},
        {"home": []},
    ],
)
def union_in_a_model(home: Household) -> Household:
    return home


def shape_of(value: Any) -> str:
    sides = value.get("sides") if isinstance(value, dict) else getattr(value, "sides", None)
    return "round" if sides is None else "angular"


class Round(BaseModel):
    radius: float


class Angular(BaseModel):
    sides: list[float]


Shape = Annotated[
    Annotated[Round, Tag("round")] | Annotated[Angular, Tag("angular")], Discriminator(shape_of)
]


@json_case(
    {"shape": {"radius": 1}},
    {"shape": {"sides": [1, 2]}},
    refused=[{"shape": {"sides": [1, "x"]}}, {"shape": {}}],
)
def callable_discriminator(shape: Shape) -> Shape:
    return shape


# Models


class Image(BaseModel):
    url: HttpUrl
    name: str


class Offer(BaseModel):
    name: str
    price: float = Field(gt=0, description="in euros")
    tags: set[str] = set()
    images: list[Image] | None = None


@json_case(
    {"offer": {"name": "a", "price": 1}},
    {
        "offer": {
            "name": "a",
            "price": 1,
            "tags": ["x", "x"],
            "images": [{"url": "http://a.b", "name": "n"}],
        }
    },
    refused=[
        {"offer": {"name": "a", "price": 0, "images": [{"url": "x"}, {"name": 1}]}},
        {"offer": None},
        {"offer": "name"},
        {"item": {}},
    ],
)
def nested_models(offer: Offer) -> Offer:
    return offer


@json_case({"offers": [], "by_name": {}}, {"offers": [{"name": "a", "price": 1}]})
def lists_of_models(offers: list[Offer], by_name: dict[str, Offer] = {}) -> dict[str, list[Offer]]:  # noqa: B006
    return {"offers": offers, "named": list(by_name.values())}


@json_case(
    {},
    {"offer": None},
    {"offer": {"name": "a", "price": 2}, "importance": 3},
    refused=[{"offer": {}}, {"importance": "x"}],
)
def optional_bodies(offer: Offer | None = None, importance: int = 0) -> dict[str, Any]:
    return {"price": offer and offer.price, "importance": importance}


class Page(BaseModel, Generic[T]):
    items: list[T]
    total: int = 0


@json_case(
    {"page": {"items": [{"name": "a", "price": 1}], "total": 1}},
    refused=[{"page": {"items": [1, {"name": "a"}]}}],
)
def generic_model(page: Page[Offer]) -> Page[str]:
    return Page[str](items=[offer.name for offer in page.items], total=page.total)


class Interval(BaseModel, Generic[Number]):
    low: Number
    high: Number


@json_case({"interval": {"low": 1, "high": 2}}, refused=[{"interval": {"low": 1.5, "high": "x"}}])
def bounded_generic(interval: Interval[int]) -> Interval[float]:
    return Interval[float](low=interval.low / 2, high=interval.high / 2)


class Aliased(BaseModel):
    first: str = Field(alias="firstName")
    last: str = Field(validation_alias=AliasChoices("lastName", "surname"))
    year: int = Field(default=0, serialization_alias="birthYear")


@json_case(
    {"person": {"firstName": "a", "lastName": "b"}},
    {"person": {"firstName": "a", "surname": "b", "year": 3}},
    refused=[{"person": {"first": "a", "last": "b"}}, {"person": {"firstName": 1, "surname": 2}}],
)
def aliases(person: Aliased) -> Aliased:
    return person


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    unit_price: float
    in_stock: bool = True


@json_case(
    {"offer": {"unitPrice": 1}},
    {"offer": {"unit_price": 1, "inStock": False}},
    refused=[{"offer": {}}, {"offer": {"unitprice": 1}}],
)
def alias_generator(offer: Camel) -> Camel:
    return offer


class Rectangle(BaseModel):
    width: int
    height: int = 1

    @computed_field(description="in m²")  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width * self.height


@json_case({"shape": {"width": 3}}, {"shape": {"width": 3, "height": 2, "area": 100}})
def computed(shape: Rectangle) -> Rectangle:
    return shape


class Account(BaseModel):
    name: str
    password: str
    repeated: str

    @field_validator("name", mode="before")
    @classmethod
    def _from_parts(cls, value: Any) -> Any:
        return " ".join(value) if isinstance(value, list) else value

    @field_validator("name")
    @classmethod
    def _two_words(cls, value: str) -> str:
        if " " not in value:
            raise ValueError("must contain a space")
        return value.title()

    @model_validator(mode="after")
    def _same(self) -> Account:
        if self.password != self.repeated:
            raise ValueError("passwords do not match")
        return self


@json_case(
    {"account": {"name": "ada l", "password": "x", "repeated": "x"}},
    {"account": {"name": ["ada", "l"], "password": "x", "repeated": "x"}},
    refused=[
        {"account": {"name": "ada", "password": "x", "repeated": "y"}},
        {"account": {"name": "ada l", "password": "x", "repeated": "y"}},
    ],
)
def validators(account: Account) -> str:
    return account.name


def even(value: int) -> int:
    assert value % 2 == 0, "not even"
    return value


Even = Annotated[int, AfterValidator(even)]
Stripped = Annotated[str, BeforeValidator(lambda value: str(value).strip())]
Percent = Annotated[float, PlainSerializer(lambda value: f"{value:.0%}", return_type=str)]


@json_case({"number": 2, "name": " a "}, {"number": "4", "name": 3}, refused=[{"number": 3}])
def annotated_validators(number: Even, name: Stripped = "x") -> dict[str, Percent]:
    return {name: number / 10}


class Readings(RootModel[list[float]]):
    """Measurements in order."""


class Stock(RootModel[dict[str, int]]):
    root: dict[str, int] = {}


@json_case(
    {"readings": [1, 2.5]},
    {"readings": [], "stock": {"a": 1}},
    refused=[{"readings": ["x"]}, {"readings": {}, "stock": {"a": "b"}}],
)
def root_models(readings: Readings, stock: Stock = Stock()) -> list[Readings | Stock]:  # noqa: B008
    return [readings, stock]


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@json_case(
    {"tree": {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]}},
    refused=[{"tree": {"value": 1, "children": [{"value": 2, "children": [{}]}]}}],
)
def recursive(tree: Tree) -> Tree:
    return tree


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, str_min_length=1)

    name: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


@json_case(
    {"strict": {"name": " a "}, "open": {"name": "b", "more": [1]}},
    refused=[{"strict": {"name": " ", "more": 1}, "open": {}}],
)
def configured(strict: Strict, open: Open) -> dict[str, Strict | Open]:
    return {"strict": strict, "open": open}


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, use_enum_values=True, validate_default=True)

    size: Size = Size.SMALL
    _seen: int = PrivateAttr(default=0)


@json_case({"value": {}}, {"value": {"size": "l"}}, refused=[{"value": {"size": "x"}}])
def frozen_model(value: Frozen) -> list[Frozen]:
    return [value]


class Documented(BaseModel):
    """An offer of the shop."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "shoe", "price": 35.4}]})

    name: str = Field(title="The name", examples=["shoe"], max_length=40)
    price: float = Field(default=1, deprecated=True, json_schema_extra={"unit": "EUR"})


@json_case({"offer": {"name": "a"}}, refused=[{"offer": {"name": "a" * 41}}])
def examples(
    offer: Documented, count: Annotated[int, Field(examples=[3], description="pieces")] = 1
) -> Documented:
    return offer


# Other classes


@dataclass
class Point:
    x: float
    y: float = 0.0
    names: list[str] = field(default_factory=list)


@json_case(
    {"point": {"x": 1}},
    {"point": {"x": 1, "y": 2, "names": ["a"], "z": 1}},
    refused=[{"point": {"y": "x"}}, {"point": [1, 2]}],
)
def dataclass_body(point: Point) -> Point:
    return point


@pydantic.dataclasses.dataclass
class Segment:
    start: Point
    end: Point
    width: float = Field(default=1, gt=0)


@json_case(
    {"segment": {"start": {"x": 0}, "end": {"x": 1}}},
    refused=[{"segment": {"start": {"x": 0}, "end": {"y": 1}, "width": 0}}],
)
def pydantic_dataclass(segment: Segment) -> list[Segment]:
    return [segment]


class Record(TypedDict):
    name: str
    price: NotRequired[float]


@json_case(
    {"record": {"name": "a"}},
    {"record": {"name": "a", "price": "2", "more": 1}},
    refused=[{"record": {"price": "x"}}, {"record": []}],
)
def typed_dict(record: Record) -> Record:
    return record


class Rating(NamedTuple):
    label: str
    score: float = 0.0


@json_case(
    {"rating": ["a", 1]},
    {"rating": ["a"]},
    {"rating": {"label": "a", "score": 2}},
    refused=[{"rating": []}, {"rating": ["a", "b"]}, {"rating": "a"}],
)
def named_tuple(rating: Rating) -> Rating:
    return rating


UserId = NewType("UserId", int)
Names = TypeAliasType("Names", list[str])


@json_case({"user": 3, "names": ["a"]}, refused=[{"user": "x", "names": [1]}])
def named_types(user: UserId, names: Names) -> dict[UserId, Names]:
    return {user: names}


# Responses


class Base(BaseModel):
    name: str


class Full(Base):
    password: str = "secret"


@json_case({"name": "a"})
def subclass_is_filtered(name: str) -> Base:
    return Full(name=name)


@json_case({"name": "a"})
def subclasses_in_a_list_are_filtered(name: str) -> list[Base]:
    return [Full(name=name), Base(name=name)]


class Holder(BaseModel):
    base: Base
    either: Base | None = None


@json_case({"name": "a"})
def subclass_in_a_field_is_filtered(name: str) -> Holder:
    return Holder(base=Full(name=name), either=Full(name=name))


class Hidden(BaseModel):
    name: str
    password: str = Field(default="x", exclude=True)
    internal: Annotated[int, Field(exclude=True)] = 3


@json_case({"user": {"name": "a"}}, {"user": {"name": "a", "password": "b"}})
def excluded_fields(user: Hidden) -> Hidden:
    return user


class Rendered(BaseModel):
    price: float
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)

    @field_serializer("price")
    def _price(self, value: float) -> str:
        return f"{value:.2f} €"


class Flat(BaseModel):
    x: int

    @model_serializer
    def _plain(self) -> dict[str, int]:
        return {"twice": 2 * self.x}


@json_case({"price": 3})
def custom_serializers(price: float) -> tuple[Rendered, Flat]:
    return Rendered(price=price), Flat(x=3)


@json_case({"name": "a"})
def dict_for_a_model(name: str) -> Offer:
    return {"name": name, "price": 1, "unknown": 2}  # type: ignore[return-value]


@json_case({"name": ""}, {"name": "a"})
def nothing_or_a_model(name: str) -> Base | None:
    return Full(name=name) if name else None


@json_case({"number": 1})
def nothing(number: int) -> None:
    return None


@json_case({"x": 3})
def union_of_results(x: int) -> list[Rectangle | Point | Rating | Record]:
    return [Rectangle(width=x), Point(x), Rating("a", x), {"name": "b"}]


@json_case({"x": 3})
def any_result(x: int) -> Any:
    return {"model": Hidden(name="a"), "day": date(2026, 1, 2), "point": Point(x), "set": {x}}


# Forms


@form_case(
    urlencoded={"data": {"name": "a&b=ü ", "count": "3"}},
    default={"data": {"name": "a"}},
    multipart={"data": {"name": "a", "count": "3"}, "files": {"unused": ("", b"")}},
    missing={"data": {"count": "x"}},
    unknown_field={"data": {"name": "a", "other": "b"}},
    number_for_a_text={"data": {"name": "3", "count": " 4"}},
)
def form_fields(name: str, count: int = 1) -> dict[str, Any]:
    return {"name": name, "count": count}


@form_case(
    repeated={"data": {"numbers": ["1", "2"], "names": ["a", "b"]}},
    single={"data": {"numbers": "1", "names": "a"}},
    invalid={"data": {"numbers": ["1", "x"], "names": ["a", "a"]}},
    missing={"data": {"names": "a"}},
    scalar={"data": {"numbers": "1", "last": ["2", "3"]}},
)
def repeated_fields(
    numbers: list[int],
    names: set[str] = set(),  # noqa: B006
    last: int = 0,
) -> dict[str, Any]:
    return {"numbers": numbers, "names": sorted(names), "last": last}


@form_case(
    single={"data": {"tags": "[sale", "names": "a"}},
    looks_like_json={"data": {"tags": '["a","b"]', "names": "[1]", "mixed": "{}"}},
    repeated={"data": {"tags": ["[a]", "[b]"], "names": ["[1]", "2"], "mixed": ["[1]", "2"]}},
    optional={"data": {"tags": "a", "names": "b", "optional": "[]"}},
)
def lists_of_text(
    tags: list[str],
    names: frozenset[Annotated[str, Field(max_length=3)]],
    mixed: list[int | str] = [],  # noqa: B006
    optional: list[str] | None = None,
) -> list[Any]:
    return [tags, sorted(names), mixed, optional]


@form_case(
    all={
        "data": {
            "ready": "on",
            "size": "s",
            "day": "2026-01-02",
            "key": str(uuid.UUID(int=7)),
            "price": "1.20",
            "mode": "kg",
        }
    },
    invalid={
        "data": {"ready": "x", "size": "x", "day": "x", "key": "x", "price": "x", "mode": "x"}
    },
    defaults={"data": {"size": "l", "ready": "false"}},
)
def form_scalars(
    ready: bool,
    size: Size,
    day: date | None = None,
    key: uuid.UUID | None = None,
    price: Decimal = Decimal(1),
    mode: Literal["g", "kg"] = "g",
) -> list[Any]:
    return [ready, size, day, key, price, mode]


@form_case(
    within={"data": {"count": "3", "name": "abc"}},
    without={"data": {"count": "11", "name": "a"}},
)
def constrained_fields(
    count: Annotated[int, Field(le=10)], name: Annotated[str, Field(min_length=2)]
) -> str:
    return name * count


@form_case(
    optional_left_out={"data": {"name": "a"}},
    optional_left_empty={"data": {"name": "a", "number": "", "day": ""}},
    filled={"data": {"name": "a", "number": "1", "day": "2026-01-02"}},
)
def empty_inputs(name: str, number: int | None = None, day: date | None = None) -> list[Any]:
    return [name, number, day]


@form_case(
    file={"files": {"file": ("a.bin", b"\x00\xff")}},
    missing={"data": {"other": "x"}},
)
def one_file(file: bytes) -> int:
    return len(file)


@form_case(
    both={"files": {"first": ("a", b"12"), "second": ("b", b"345")}},
    one={"files": {"first": ("a", b"12")}},
)
def two_files(first: bytes, second: bytes) -> int:
    return len(first) * 100 + len(second)


@form_case(
    all={"files": {"file": ("a", b"12")}, "data": {"token": "t", "count": "2"}},
    default={"files": {"file": ("a", b"12")}, "data": {"token": "t"}},
    invalid={"files": {"file": ("a", b"12")}, "data": {"token": "t", "count": "x"}},
    missing_field={"files": {"file": ("a", b"12")}},
    missing_file={"data": {"token": "t"}},
)
def file_and_fields(file: bytes, token: str, count: int = 1) -> str:
    return f"{len(file)} {token} {count}"


@form_case(
    file={"files": {"file": ("a", b"12")}, "data": {"name": "a"}},
    left_out={"data": {"name": "a"}},
    left_empty={"files": {"file": ("", b"")}, "data": {"name": "a"}},
)
def optional_file(name: str, file: bytes | None = None) -> str:
    return f"{name} {None if file is None else len(file)}"


@form_case(
    two={"files": [("files", ("a", b"1")), ("files", ("b", b"23"))]},
    one={"files": [("files", ("a", b"1"))]},
    none={"data": {"name": "x"}},
)
def several_files(files: list[bytes], name: str = "") -> list[int]:
    return [len(file) for file in files]
