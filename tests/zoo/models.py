"""pydantic models."""

import datetime as dt
import decimal
import enum
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic as p
from pydantic import alias_generators

from mlkit.media.image import Image
from tests.zoo.classes import FRAME, IMAGE, Money, Pair, Point, Row
from tests.zoo.ways import Entry

T = TypeVar("T")


class Simple(p.BaseModel):
    """A model with a docstring."""

    n: int
    name: str = "a"


class Longer(Simple):
    m: int = 2


class Aliases(p.BaseModel):
    n: int = p.Field(alias="N")


class ByName(p.BaseModel):
    model_config = p.ConfigDict(populate_by_name=True)
    n: int = p.Field(alias="N")


class ValidationAlias(p.BaseModel):
    n: int = p.Field(validation_alias="in")


class SerializationAlias(p.BaseModel):
    n: int = p.Field(serialization_alias="out")


class BothAliases(p.BaseModel):
    n: int = p.Field(validation_alias="in", serialization_alias="out")


class Choices(p.BaseModel):
    n: int = p.Field(validation_alias=p.AliasChoices("a", "b"))


class AtPath(p.BaseModel):
    n: int = p.Field(validation_alias=p.AliasPath("a", 0))


class Camel(p.BaseModel):
    model_config = p.ConfigDict(alias_generator=alias_generators.to_camel)
    long_name: int


class Generated(p.BaseModel):
    model_config = p.ConfigDict(
        alias_generator=p.AliasGenerator(
            validation_alias=alias_generators.to_camel,
            serialization_alias=alias_generators.to_pascal,
        )
    )
    long_name: int


class Computed(p.BaseModel):
    side: float

    @p.computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> float:
        return self.side**2


class Excluded(p.BaseModel):
    n: int
    secret: str = p.Field("", exclude=True)


class Strict(p.BaseModel):
    model_config = p.ConfigDict(strict=True)
    n: int
    when: dt.date


class FrozenModel(p.BaseModel):
    model_config = p.ConfigDict(frozen=True)
    n: int


class Allow(p.BaseModel):
    model_config = p.ConfigDict(extra="allow")
    n: int


class AllowInts(p.BaseModel):
    model_config = p.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int] = p.Field(init=False)
    n: int


class Forbid(p.BaseModel):
    model_config = p.ConfigDict(extra="forbid")
    n: int


class Private(p.BaseModel):
    n: int
    _seen: int = p.PrivateAttr(3)
    _cache: dict[str, int] = p.PrivateAttr(default_factory=dict)


class FromCents(p.BaseModel):
    eur: float

    @p.field_validator("eur")
    @classmethod
    def divide(cls, value: float) -> float:
        return value / 100


class Before(p.BaseModel):
    n: int

    @p.field_validator("n", mode="before")
    @classmethod
    def add(cls, value: Any) -> Any:
        return value + 1 if isinstance(value, int) else value


class Wrapped(p.BaseModel):
    n: int

    @p.field_validator("n", mode="wrap")
    @classmethod
    def twice(cls, value: Any, handler: Any) -> Any:
        return handler(value) * 2


class WholeAfter(p.BaseModel):
    n: int

    @p.model_validator(mode="after")
    def add(self) -> "WholeAfter":
        self.n += 1
        return self


class WholeBefore(p.BaseModel):
    n: int

    @p.model_validator(mode="before")
    @classmethod
    def unpack(cls, data: Any) -> Any:
        return {"n": data} if isinstance(data, int) else data


class PostInit(p.BaseModel):
    n: int
    _twice: int = 0

    def model_post_init(self, context: Any) -> None:
        self._twice = self.n * 2


class FieldSerializer(p.BaseModel):
    n: int

    @p.field_serializer("n")
    def text(self, value: int) -> str:
        return f"{value:03}"


class Untyped(p.BaseModel):
    n: int

    @p.field_serializer("n")
    def text(self, value):  # type: ignore[no-untyped-def]
        return f"{value:03}"


class ModelSerializer(p.BaseModel):
    n: int

    @p.model_serializer
    def text(self) -> str:
        return f"n={self.n}"


class WrapSerializer(p.BaseModel):
    n: int

    @p.model_serializer(mode="wrap")
    def add(self, handler: Any) -> dict[str, Any]:
        return {**handler(self), "more": 1}


class Page(p.BaseModel, Generic[T]):
    items: list[T]
    total: int = 0


class Cat(p.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(p.BaseModel):
    kind: Literal["dog"] = "dog"
    breed: str


class Puppy(Dog):
    age: int = 0


class Fish(p.BaseModel):
    kind: Literal["fish"] = "fish"
    salt: bool


Pet = Annotated[Cat | Dog, p.Field(discriminator="kind")]
Animal = Annotated[Pet | Fish, p.Field(discriminator="kind")]


def _kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in ("cat", "dog") else "other"


Tagged = Annotated[
    Annotated[Cat, p.Tag("cat")] | Annotated[Dog, p.Tag("dog")] | Annotated[Fish, p.Tag("other")],
    p.Discriminator(_kind),
]


class Owner(p.BaseModel):
    pet: Pet
    pets: list[Animal] = []


class Bag(p.BaseModel):
    thing: Simple | Longer | int | None = None


class TreeModel(p.BaseModel):
    n: int
    children: "list[TreeModel]" = []


class Husband(p.BaseModel):
    wife: "Wife | None" = None


class Wife(p.BaseModel):
    husband: Husband | None = None
    n: int = 0


class Root(p.RootModel[list[int]]):
    pass


class RootMap(p.RootModel[dict[str, Simple]]):
    pass


class Media(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    image: Image
    data: bytes
    array: np.ndarray
    frame: pd.DataFrame
    mask: npt.NDArray[np.bool_] | None = None


class MediaDefaults(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    data: bytes = b"d"
    image: Image = p.Field(default_factory=lambda: IMAGE)
    array: np.ndarray = p.Field(default_factory=lambda: np.arange(2))


class Thumb(p.BaseModel):
    image: Image | None = None
    images: dict[str, list[Image]] = {}


class Titled(p.BaseModel):
    model_config = p.ConfigDict(title="A title / with odd: characters")
    n: int


class Base64(p.BaseModel):
    model_config = p.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Utf8(p.BaseModel):
    model_config = p.ConfigDict(ser_json_bytes="utf8")
    data: bytes


class Durations(p.BaseModel):
    model_config = p.ConfigDict(ser_json_timedelta="float")
    took: dt.timedelta


class NanStrings(p.BaseModel):
    model_config = p.ConfigDict(ser_json_inf_nan="strings")
    n: float


class EnumValues(p.BaseModel):
    model_config = p.ConfigDict(use_enum_values=True)
    kind: "Kind"


class Kind(enum.Enum):
    a = "A"


class Purse(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    money: Money


class Mixed(p.BaseModel):
    point: Point
    pair: Pair
    row: Row
    price: decimal.Decimal
    link: p.HttpUrl
    secret: p.SecretStr = p.SecretStr("")
    when: dt.datetime
    kinds: set[Literal["x", "y"]] = set()
    by_day: dict[dt.date, list[tuple[int, float]]] = {}


class Shadow(p.BaseModel):
    model_config = p.ConfigDict(protected_namespaces=())
    model_name: str
    json_: int = p.Field(alias="json")
    größe: float = 1.0


class Assigned(p.BaseModel):
    model_config = p.ConfigDict(validate_assignment=True, revalidate_instances="always")
    n: int

    @p.field_validator("n")
    @classmethod
    def twice(cls, value: int) -> int:
        return value * 2


class FromAttributes(p.BaseModel):
    model_config = p.ConfigDict(from_attributes=True)
    n: int


class Anything(p.BaseModel):
    value: Any
    values: dict[str, Any] = {}


class Factory(p.BaseModel):
    items: list[int] = p.Field(default_factory=list)
    copies: list[int] = [1]
    total: int = p.Field(default_factory=lambda data: sum(data["items"]))


class Outer(p.BaseModel):
    class Inner(p.BaseModel):
        n: int

    inner: Inner


class AnyBase(p.BaseModel):
    shape: p.SerializeAsAny[Simple]


class Holder(p.BaseModel):
    model_config = p.ConfigDict(arbitrary_types_allowed=True)
    thing: object


class Lambda(p.BaseModel):
    call: Any = None


def _private(n: int) -> Private:
    model = Private(n=n)
    model._seen = 9
    return model


Created = p.create_model("Created", n=(int, ...), names=(list[str], []))

LONGER = Longer(n=1, name="b", m=3)
MEDIA = Media(image=IMAGE, data=b"\xff", array=np.arange(3.0), frame=FRAME)

ENTRIES = [
    Entry("model", Simple, (Simple(n=1), Simple(n=1, name="a"))),
    Entry("model-from-dict", Simple, ({"n": 1},)),
    Entry("model-as-result", Simple, (1,), result=lambda n: {"n": n}),
    Entry("model-subclass", Simple, (LONGER,)),
    Entry("list[model]", list[Simple], ([LONGER, Simple(n=2)],)),
    Entry("dict[str, model]", dict[str, Simple], ({"a": Simple(n=1)},)),
    Entry("model | None", Simple | None, (None, Simple(n=1))),
    Entry("model | model", Simple | Longer, (Simple(n=1), LONGER)),
    Entry("model | str", Simple | str, (Simple(n=1), "a")),
    Entry("tuple[model, int]", tuple[Simple, int], ((Simple(n=1), 2),)),
    Entry("model-alias", Aliases, (Aliases(N=1),)),
    Entry("model-populate_by_name", ByName, (ByName(n=1),)),
    Entry(
        "model-validation_alias",
        ValidationAlias,
        (ValidationAlias(**{"in": 1}),),
        body={"in": 1},
        answer={"n": 1},
    ),
    Entry(
        "model-serialization_alias",
        SerializationAlias,
        (SerializationAlias(n=1),),
        body={"n": 1},
        answer={"out": 1},
    ),
    Entry(
        "model-both-aliases",
        BothAliases,
        (BothAliases(**{"in": 1}),),
        body={"in": 1},
        answer={"out": 1},
    ),
    Entry("model-AliasChoices", Choices, (Choices(b=1),), body={"a": 1}, answer={"n": 1}),
    Entry("model-AliasPath", AtPath, (AtPath(a=[1]),), body={"a": [1]}, answer={"n": 1}),
    Entry("model-alias_generator", Camel, (Camel(longName=1),), answer={"longName": 1}),
    Entry(
        "model-AliasGenerator",
        Generated,
        (Generated(longName=1),),
        body={"longName": 1},
        answer={"LongName": 1},
    ),
    Entry("model-computed", Computed, (Computed(side=3.0),), answer={"side": 3.0, "area": 9.0}),
    Entry("model-excluded", Excluded, (Excluded(n=1, secret="s"),), answer={"n": 1}),
    Entry("model-strict", Strict, (Strict(n=1, when=dt.date(2026, 1, 2)),)),
    Entry("model-frozen", FrozenModel, (FrozenModel(n=1),)),
    Entry("model-extra-allow", Allow, (Allow(n=1, m=[2], text="t"),)),
    Entry("model-extra-typed", AllowInts, (AllowInts(n=1, m=2),)),
    Entry("model-extra-forbid", Forbid, (Forbid(n=1),)),
    Entry("model-private", Private, (_private(1),)),
    Entry(
        "model-not-idempotent",
        FromCents,
        (FromCents(eur=1250), {"eur": 1250}),
        body={"eur": 1250},
        answer={"eur": 12.5},
    ),
    Entry("model-before", Before, (Before(n=1),), body={"n": 1}, answer={"n": 2}),
    Entry("model-wrap", Wrapped, (Wrapped(n=1),), body={"n": 1}, answer={"n": 2}),
    Entry(
        "model-model_validator-after",
        WholeAfter,
        (WholeAfter(n=1),),
        body={"n": 1},
        answer={"n": 2},
    ),
    Entry("model-model_validator-before", WholeBefore, (WholeBefore(n=1), 3), body={"n": 1}),
    Entry("model-post_init", PostInit, (PostInit(n=2),)),
    Entry(
        "model-field_serializer",
        FieldSerializer,
        (FieldSerializer(n=1),),
        answer={"n": "001"},
        body={"n": 1},
    ),
    Entry("model-serializer-untyped", Untyped, (Untyped(n=1),), body={"n": 1}, answer={"n": "001"}),
    Entry(
        "model-model_serializer",
        ModelSerializer,
        (ModelSerializer(n=1),),
        body={"n": 1},
        answer="n=1",
    ),
    Entry(
        "model-wrap-serializer", WrapSerializer, (WrapSerializer(n=1),), answer={"n": 1, "more": 1}
    ),
    Entry("model-generic", Page[int], (Page[int](items=[1]),)),
    Entry("model-generic-of-model", Page[Simple], (Page[Simple](items=[LONGER]),)),
    Entry("model-generic-bare", Page, (Page(items=[1, "a"]),)),
    Entry(
        "model-generic-nested",
        Page[Page[Simple | None]],
        (Page[Page[Simple | None]](items=[Page[Simple | None](items=[None])]),),
    ),
    Entry("model-discriminated", Pet, (Cat(), Dog(breed="b"), Puppy(breed="b", age=1))),
    Entry("model-discriminated-nested", Animal, (Cat(), Fish(salt=True))),
    Entry(
        "model-discriminated-in",
        Owner,
        (Owner(pet=Dog(breed="b"), pets=[Cat(), Fish(salt=False)]),),
    ),
    Entry("model-discriminator-callable", Tagged, (Cat(), Dog(breed="b"), Fish(salt=True))),
    Entry("list[discriminated]", list[Pet], ([Cat(), Dog(breed="b")],)),
    Entry("model-union-field", Bag, (Bag(thing=LONGER), Bag(thing=3), Bag())),
    Entry("model-recursive", TreeModel, (TreeModel(n=1, children=[TreeModel(n=2)]),)),
    Entry("model-mutually-recursive", Wife, (Wife(husband=Husband(wife=Wife())),)),
    Entry("RootModel", Root, (Root([1, 2]),), answer=[1, 2]),
    Entry("RootModel-mapping", RootMap, (RootMap({"a": LONGER}),)),
    Entry("model-media", Media, (MEDIA, MEDIA.model_copy(update={"mask": np.array([True])}))),
    Entry("model-media-defaults", MediaDefaults, (MediaDefaults(),)),
    Entry("model-images", Thumb, (Thumb(), Thumb(image=IMAGE, images={"a": [IMAGE]}))),
    Entry("list[model-media]", list[Media], ([MEDIA],)),
    Entry("model-title", Titled, (Titled(n=1),)),
    Entry("model-base64", Base64, (Base64(data=b"YWI"),)),
    Entry("model-utf8", Utf8, (Utf8(data=b"ab"),), drawn=False),
    Entry("model-timedelta-float", Durations, (Durations(took=dt.timedelta(seconds=1.5)),)),
    Entry("model-inf-nan-strings", NanStrings, (NanStrings(n=float("nan")), NanStrings(n=1.0))),
    Entry("model-nan", Computed, (1,), result=lambda n: Computed(side=float("nan"))),
    Entry("model-use_enum_values", EnumValues, (EnumValues(kind=Kind.a),)),
    Entry("model-codec", Purse, (Purse(money=Money(3)),), equal=lambda a, b: repr(a) == repr(b)),
    Entry(
        "model-mixed",
        Mixed,
        (
            Mixed(
                point=Point(1.0),
                pair=Pair("a"),
                row={"n": 1},
                price="1.10",
                link="http://a.example",
                when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
                kinds={"x"},
                by_day={dt.date(2026, 1, 2): [(1, 0.5)]},
            ),
        ),
    ),
    Entry("model-odd-names", Shadow, (Shadow(model_name="m", json=1),)),
    Entry("model-revalidated", Assigned, (Assigned(n=1),), body={"n": 1}),
    Entry("model-from_attributes", FromAttributes, (FromAttributes(n=1), LONGER)),
    Entry(
        "model-Any",
        Anything,
        (Anything(value=1), Anything(value=[Simple(n=1)], values={"a": LONGER})),
        body={"value": 1},
    ),
    Entry("model-defaults", Factory, (Factory(), Factory(items=[1]))),
    Entry("model-inner", Outer, (Outer(inner=Outer.Inner(n=1)),)),
    Entry("model-SerializeAsAny", AnyBase, (AnyBase(shape=LONGER),)),
    Entry("model-created", Created, (Created(n=1),)),
    Entry("model-arbitrary", Holder, (Holder(thing=1),)),
    Entry("model-BaseModel", p.BaseModel, refused=True),
    Entry("model-construct", Simple, (1,), result=lambda n: Simple.model_construct(n=n)),
    Entry("model-copy", list[Simple], (1,), result=lambda n: [Simple(n=n)] * 2),
    Entry("Union-of-models", Union[list[Simple], dict[str, Simple]], ([LONGER], {"a": LONGER})),  # noqa: UP007
]
