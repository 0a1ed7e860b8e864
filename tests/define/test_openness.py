"""Values that a type leaves open: what cannot cross the border is an error, here and served."""

import dataclasses
import datetime as dt
import io
import struct
import threading
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

import dateutil.tz
import numpy as np
import pandas as pd
import PIL.Image
import pydantic
import pytest
import torch
from pydantic import BaseModel, PlainSerializer, PlainValidator, PrivateAttr, WithJsonSchema
from starlette.testclient import TestClient

from mlkit import pipeline, step
from mlkit.define.border import port
from mlkit.define.openness import argument_check, result_check
from mlkit.errors import InputError, RemoteStepError, RequestError, ResultError, StepError
from mlkit.media.image import Image
from mlkit.serving import asgi
from mlkit.serving.kernel.client import Codec

T = TypeVar("T")
IMAGE = Image(np.zeros((2, 2, 3), np.uint8), 2, 2)

MADE: dict[str, Callable[[], Any]] = {
    "slice": lambda: slice(1, 2),
    "function": lambda: len,
    "NaTType": lambda: pd.NaT,
    "BytesIO": lambda: io.BytesIO(b"a"),
    "generator": lambda: (n for n in range(3)),
    "lock": threading.Lock,
    "Image": lambda: PIL.Image.new("RGB", (1, 1)),
    "Tensor": lambda: torch.ones(2).to_sparse(),
    "range": lambda: range(2),
    "nested": lambda: {"a": [{"b": slice(1)}]},
    "cell": lambda: pd.DataFrame({"a": [slice(1)]}),
    "array": lambda: np.array([slice(1), None], dtype=object),
    "keys": lambda: {1: "a", "1": "b"},
    "itself": lambda: [each := [], each.append(each)],
}

TYPE_OF = {"nested": "slice", "cell": "slice", "array": "slice", "keys": "two keys of a dict"}


@step
def make(name: str) -> Any:
    return MADE[name]()


@pipeline
def made(name: str) -> Any:
    return make(name)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(asgi(made), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("name", MADE)
def test_a_result_without_a_form_is_the_same_error_here_and_served(
    name: str, client: TestClient
) -> None:
    about = TYPE_OF.get(name, name)
    about = "nested too deeply" if name == "itself" else about
    with pytest.raises(StepError, match=about) as here:
        made(name)
    assert here.value.step == "make"
    assert here.value.fix
    assert isinstance(here.value.__cause__, ResultError)
    codec = Codec(made.graph)
    request = codec.request("/made", None, {"name": name})
    exact = client.post("/made", headers=request.headers, content=request.body)
    public = client.post("/made", json={"name": name})
    for response in (exact, public):
        assert response.status_code == 500
        assert response.json()["step"] == "make"
        assert about in response.json()["detail"]
        error = codec.error(response.status_code, response.content)
        assert isinstance(error, RemoteStepError)
        assert isinstance(error, StepError)
        assert isinstance(error, RequestError)
        assert (error.step, error.pipeline, error.status) == ("make", "made", 500)
    status = client.get("/openapi.json").json()["paths"]["/made"]["post"]["responses"]
    assert "500" in status


@pytest.mark.parametrize("name", ["slice", "lock", "generator"])
def test_map_and_streams_make_the_same_check(name: str) -> None:
    @step
    def several(name: str) -> Iterator[Any]:
        yield 1
        yield MADE[name]()

    @pipeline
    def streamed(name: str) -> Iterator[Any]:
        return several(name)

    with pytest.raises(StepError, match=name):
        list(streamed.stream(name))
    (error,) = made.map([name], on_error="keep", progress=False)
    assert isinstance(error.__cause__, ResultError)


@pytest.mark.parametrize("name", ["lock", "generator", "function", "BytesIO"])
def test_an_argument_without_a_form_is_the_same_error_here_as_for_an_app(name: str) -> None:
    @step
    def look(x: Any) -> str:
        return type(x).__name__

    @pipeline
    def looked(x: Any) -> str:
        return look(x)

    with pytest.raises(InputError, match=f"argument 'x' of pipeline 'looked'.*{name}"):
        looked([MADE[name]()])
    assert looked(slice(1)) == "slice"


@pytest.mark.parametrize(
    "type_", [list, dict, tuple, object, list[Any], dict[str, Any], T], ids=str
)
def test_types_that_leave_values_open_are_checked(type_: Any) -> None:
    check = result_check(type_, made.graph)
    assert check is not None
    value = {"a": 1} if "dict" in str(type_) else [1]
    assert check(value) is value
    with pytest.raises(ResultError, match="slice"):
        check([slice(1)])


class Event(BaseModel):
    when: dt.datetime | None


class Zone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1)


DAY = dt.datetime(2026, 1, 2)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
UTC_FILE = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
ZONES = [
    dateutil.tz.tzutc(),
    dateutil.tz.gettz("Europe/Berlin"),
    Zone(),
    zoneinfo.ZoneInfo.from_file(io.BytesIO(UTC_FILE)),
]


@pytest.mark.parametrize("zone", ZONES, ids=lambda zone: type(zone).__name__)
@pytest.mark.parametrize(
    ("type_", "form"),
    [
        (dt.datetime, lambda zone: DAY.replace(tzinfo=zone)),
        (dt.time, lambda zone: dt.time(tzinfo=zone)),
        (list[dt.datetime], lambda zone: [DAY, DAY.replace(tzinfo=zone)]),
        (Event, lambda zone: Event(when=DAY.replace(tzinfo=zone))),
    ],
    ids=["datetime", "time", "list", "model"],
)
def test_time_zones_of_other_classes_are_the_same_error_here_as_for_an_app(
    type_: Any, form: Callable[[Any], Any], zone: Any
) -> None:
    taken, returned = argument_check(type_, made.graph), result_check(type_, made.graph)
    assert taken is not None
    assert returned is not None
    with pytest.raises(InputError, match="time zone"):
        taken(form(zone))
    with pytest.raises(ResultError, match="time zone"):
        returned(form(zone))
    for known in (None, dt.UTC, BERLIN):
        assert returned(form(known)) == taken(form(known)) == form(known)


@pytest.mark.parametrize(
    ("type_", "form"),
    [
        (dt.datetime, lambda: pd.NaT),
        (dt.datetime | None, lambda: pd.NaT),
        (dict[str, dt.datetime], lambda: {"a": pd.NaT}),
        (Event, lambda: Event(when=pd.NaT)),  # type: ignore[arg-type]
    ],
    ids=["moment", "optional", "dict", "model"],
)
def test_nat_is_no_moment_here_and_served(type_: Any, form: Callable[[], Any]) -> None:
    check = result_check(type_, made.graph)
    assert check is not None
    with pytest.raises(ResultError, match="NaT has no JSON form") as caught:
        check(form())
    assert caught.value.fix == "return None for it"


class Closed(BaseModel):
    n: int
    when: dt.date | None = None
    more: list["Closed"] = []


@pytest.mark.parametrize(
    "type_", [int, list[str], Closed, Image, dict[str, Closed], uuid.UUID | None, bytes], ids=str
)
def test_types_that_leave_nothing_open_cost_nothing(type_: Any) -> None:
    assert result_check(type_, made.graph) is None
    assert argument_check(type_, made.graph) is None


def test_a_pipeline_that_cannot_be_served_returns_anything_here() -> None:
    @step
    def anything(x: threading.Event) -> Any:
        return x

    @pipeline
    def local(x: threading.Event) -> Any:
        return anything(x)

    assert local.problems
    assert type(local(threading.Event())) is threading.Event


class Holds(BaseModel):
    n: int
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


def test_private_attributes_of_a_model_are_looked_at() -> None:
    @step
    def hold(n: int) -> Holds:
        return Holds(n=n)

    @pipeline
    def held(n: int) -> Holds:
        return hold(n)

    with pytest.raises(StepError, match="values of type lock have no exact form"):
        held(1)


@dataclasses.dataclass
class Logged:
    n: int

    def __post_init__(self) -> None:
        self.log = print if self.n else [threading.Lock()]


@pytest.mark.parametrize("n", [0, 1])
def test_attributes_that_a_dataclass_sets_are_looked_at(n: int) -> None:
    for type_, value in ((Logged, Logged(n)), (list[Logged], [Logged(n)])):
        taken, returned = argument_check(type_, made.graph), result_check(type_, made.graph)
        assert taken is not None
        assert returned is not None
        with pytest.raises(InputError, match="no exact form"):
            taken(value)
        with pytest.raises(ResultError, match="no exact form"):
            returned(value)


class Own:
    """A class with a JSON form by annotation."""


Serialized = Annotated[
    Own,
    PlainValidator(lambda value: value),
    PlainSerializer(lambda value: {}["secret"], return_type=str),
    WithJsonSchema({"type": "string"}),
]


def test_the_text_of_a_serializers_error_is_not_shown() -> None:
    check = result_check(Serialized, made.graph)
    assert check is not None
    with pytest.raises(ResultError, match="a serializer raised an exception") as caught:
        check(Own())
    assert "secret" not in str(caught.value)


def test_nothing_large_is_encoded_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded(image: Any) -> bytes:
        raise AssertionError("encoded")

    monkeypatch.setattr("mlkit.media.image.encode_png", encoded)
    monkeypatch.setattr("mlkit.define.registry.plain", encoded)
    check = result_check(dict[str, Any], made.graph)
    assert check is not None
    check({"image": IMAGE, "array": np.zeros(3), "table": pd.DataFrame({"a": [1]})})


def test_pictures_and_sounds_have_their_form_where_the_type_is_open() -> None:
    (url,) = port(Any).to_json([IMAGE])
    assert url.startswith("data:image/png;base64,")
    assert pydantic.TypeAdapter(Any).dump_json(IMAGE).startswith(b'"data:image/png')


def test_cells_of_a_table_have_the_form_that_values_have() -> None:
    frame = pd.DataFrame({"a": [uuid.UUID(int=7), 1 + 2j, pd.Interval(0, 1)]})
    assert [row["a"] for row in port(pd.DataFrame).to_json(frame)] == [
        "00000000-0000-0000-0000-000000000007",
        "1+2j",
        "(0, 1]",
    ]
