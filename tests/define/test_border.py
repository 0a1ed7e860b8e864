"""How values get in and out: JSON, uploads, and what a caller here may pass."""

import base64
import collections
import dataclasses
import enum
import io
import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image
import pydantic
import pydantic.dataclasses
import pytest
from typing_extensions import TypeAliasType

from mlkit.define import registry
from mlkit.define.border import codec, plain, port
from mlkit.define.conform import conform_to
from mlkit.define.registry import codecs
from mlkit.define.types import ImageSource, Upload
from mlkit.errors import DefinitionError, InputError
from mlkit.media.image import Image


class Label(pydantic.BaseModel):
    name: str
    score: float


@dataclasses.dataclass
class Box:
    x0: int
    x1: int


class Pair(NamedTuple):
    name: str
    score: float


class Kind(enum.IntEnum):
    low = 1


class Shade(enum.Enum):
    light = "l"
    dark = 2


class Planet(Pair, enum.Enum):
    earth = "Earth", 5.97
    mars = "Mars", 0.64


class Sizes(list[int], enum.Enum):
    small = [1, 2]  # noqa: RUF012


class Settings(dict[str, str], enum.Enum):
    plain = {"type": "int"}  # noqa: RUF012


class Parts(enum.Enum):
    first = [1]  # noqa: RUF012


def there_and_back(type_: Any, value: Any) -> Any:
    """What becomes of a value that goes out as JSON and comes in again."""
    way = port(type_)
    return way.from_json(json.loads(json.dumps(way.to_json(value), default=plain)))


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 3),
        (float, 0.1),
        (str, "größe"),
        (bool, True),
        (None, None),
        (Label, Label(name="a", score=0.5)),
        (Box, Box(1, 2)),
        (Pair, Pair("a", 0.5)),
        (list[Label], [Label(name="a", score=0.5)]),
        (dict[str, list[Box]], {"a": [Box(1, 2)]}),
        (tuple[int, str], (1, "a")),
        (Label | None, None),
        (Label | None, Label(name="a", score=1)),
        (date, date(2026, 1, 2)),
        (bytes, b"\x00\xff"),
    ],
    ids=str,
)
def test_json_there_and_back(type_: Any, value: Any) -> None:
    again = there_and_back(type_, value)
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("member", [Planet.earth, Sizes.small, Settings.plain, Parts.first])
def test_members_of_an_enum_of_containers_there_and_back(member: Any) -> None:
    assert there_and_back(type(member), member) is member
    many = list[type(member)]  # type: ignore[misc]
    assert there_and_back(many, [member])[0] is member
    conform = conform_to(many)
    assert conform is not None
    assert conform([member])[0] is member


def test_arrays_there_and_back() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(there_and_back(np.ndarray, array), array)
    way = port(np.ndarray)
    assert way.to_bytes is not None
    assert way.from_bytes is not None
    data, media_type = way.to_bytes(array)
    again = way.from_bytes(data)
    assert media_type == way.media_type == "application/x-npy"
    assert again.dtype == np.float32
    assert np.array_equal(again, array)


def test_tables_there_and_back() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "n": [1, 2]})
    assert there_and_back(pd.DataFrame, frame).equals(frame)


def test_pictures_there_and_back() -> None:
    picture = Image(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 4, 4)
    again = there_and_back(Image, picture)
    assert np.array_equal(again.pixels, picture.pixels)


def test_numpy_values_in_a_result_become_plain() -> None:
    value = {"n": np.int64(3), "xs": np.arange(2)}
    assert json.loads(json.dumps(port(dict[str, Any]).to_json(value), default=plain)) == {
        "n": 3,
        "xs": [0, 1],
    }
    with pytest.raises(TypeError, match="values of type object have no JSON form"):
        plain(object())


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, "three"),
        (Label, {"name": "a"}),
        (list[int], 5),
    ],
)
def test_json_that_does_not_validate_is_refused(type_: Any, value: Any) -> None:
    with pytest.raises(InputError):
        port(type_).from_json(value)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (bytes, 5),
        (bytes, "not a url"),
        (bytes, "data:;base64,@@@"),
        (bytes, "https://example.com/x"),
        (Image, "data:text/plain,hello"),
        (np.ndarray, [[1, 2], [3]]),
        (np.ndarray, ["a"]),
        (np.ndarray, [{"a": 1}]),
        (pd.DataFrame, {"a": 1}),
        (pd.DataFrame, [1, 2]),
        (ImageSource, 5),
    ],
    ids=str,
)
def test_what_is_no_value_of_the_type_is_an_input_error(type_: Any, value: Any) -> None:
    with pytest.raises(InputError):
        port(type_).from_json(value)


def test_no_pickle_comes_in() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    way = port(np.ndarray)
    assert way.from_bytes is not None
    with pytest.raises(InputError, match=r"not a \.npy file"):
        way.from_bytes(buffer.getvalue())
    with pytest.raises(InputError):
        way.from_bytes(b"no array at all")


def npy(header: str, data: bytes = bytes(16)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        zipped(),
        b"PK\x03\x04" + bytes(40),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}"),
        npy("{'descr': 'evil', 'fortran_order': False, 'shape': (1,)}"),
        npy("(" * 1500),
    ],
    ids=["npz", "zip", "length", "no bytes", "shape", "dtype", "syntax"],
)
def test_what_is_no_array_in_a_file_is_an_input_error(data: bytes) -> None:
    way = port(np.ndarray)
    assert way.from_bytes is not None
    with pytest.raises(InputError, match=r"not a \.npy file"):
        way.from_bytes(data)


def test_a_data_url_need_not_be_base64() -> None:
    assert port(bytes).from_json("data:text/plain,a%20b") == b"a b"
    encoded = base64.b64encode(b"xyz").decode()
    assert port(bytes).from_json(f"DATA:;BASE64,{encoded}") == b"xyz"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "shoe.jpg"
    PIL.Image.new("RGB", (4, 4), "red").save(path)
    return path


def test_a_source_is_taken_as_path_bytes_picture_or_url(photo: Path) -> None:
    local = port(ImageSource).local
    data = photo.read_bytes()
    assert local(photo) == local(str(photo)) == local(data) == local(bytearray(data)) == data
    for made in (PIL.Image.open(photo), np.zeros((4, 4, 3), np.uint8)):
        assert local(made).startswith(b"\x89PNG")
    assert local("https://example.com/a.jpg") == "https://example.com/a.jpg"
    assert local("data:image/png;base64,AA==") == "data:image/png;base64,AA=="


def test_a_source_that_is_nowhere_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        port(ImageSource).local("shoe-that-is-not-there.jpg")
    assert "a path, an http(s) or data: URL" in str(caught.value)


def test_a_server_never_opens_a_path(photo: Path) -> None:
    with pytest.raises(InputError):
        port(ImageSource).from_json(str(photo))
    with pytest.raises(InputError):
        port(Image).from_json(str(photo))
    with pytest.raises(InputError):
        port(bytes).from_json(str(photo))


def test_a_picture_parameter_takes_what_a_source_takes(photo: Path) -> None:
    local = port(Image).local
    for given in (photo, str(photo), photo.read_bytes(), PIL.Image.open(photo)):
        assert local(given).width == 4
    picture = local(photo)
    assert local(picture) is picture


def test_bytes_are_read_from_a_path_object_only(photo: Path) -> None:
    assert port(bytes).local(photo) == photo.read_bytes()
    assert port(bytes).local(memoryview(b"ab")) == b"ab"


def test_a_dict_may_stand_for_a_model() -> None:
    assert port(Label).local({"name": "a", "score": 1}) == Label(name="a", score=1)
    same = Label(name="a", score=1)
    assert port(Label).local(same) is same


@pytest.mark.parametrize(
    ("type_", "upload", "url", "media_type"),
    [
        (ImageSource, True, True, "image/*"),
        (Image, True, False, "image/*"),
        (bytes, True, False, "application/octet-stream"),
        (Annotated[bytes, Upload(media_type="audio/*")], True, False, "audio/*"),
        (np.ndarray, True, False, "application/x-npy"),
        (str, False, False, "application/json"),
        (Label, False, False, "application/json"),
    ],
    ids=str,
)
def test_what_is_an_upload(type_: Any, upload: bool, url: bool, media_type: str) -> None:
    way = port(type_)
    assert (way.upload, way.url, way.media_type) == (upload, url, media_type)
    assert (way.from_bytes is not None) == (way.to_bytes is not None) == upload


def test_pictures_are_uploaded_as_what_they_are(photo: Path) -> None:
    to_bytes = port(ImageSource).to_bytes
    assert to_bytes is not None
    assert to_bytes(photo) == (photo.read_bytes(), "image/jpeg")
    assert to_bytes(np.zeros((4, 4, 3), np.uint8))[1] == "image/png"


def test_the_schema_is_that_of_the_json_form() -> None:
    assert port(int).schema == {"type": "integer"}
    assert port(ImageSource).schema["format"] == "uri"
    assert port(Label).schema["required"] == ["name", "score"]


class Odd:
    def __init__(self, n: int) -> None:
        self.n = n


@pytest.fixture
def odd_codec() -> Any:
    codec(Odd, encode=lambda odd: {"n": odd.n}, decode=lambda value: Odd(int(value["n"])))
    yield
    registry._codecs.pop(Odd)
    registry.register({})


def test_a_type_without_a_form_names_the_way_out() -> None:
    with pytest.raises(DefinitionError, match="cannot be serialized") as caught:
        port(Odd)
    assert "codec(Odd, encode=..., decode=...)" in str(caught.value)


@pytest.mark.usefixtures("odd_codec")
def test_a_codec_gives_it_one() -> None:
    assert there_and_back(Odd, Odd(3)).n == 3
    assert Odd in codecs()


@pytest.mark.usefixtures("odd_codec")
@pytest.mark.parametrize("value", [5, {}, {"n": "x"}])
def test_what_a_codec_cannot_read_is_an_input_error(value: Any) -> None:
    with pytest.raises(InputError, match="not a valid Odd"):
        port(Odd).from_json(value)


class ParserError(Exception):
    """As `wave.Error` and many others, no ValueError."""


def test_what_a_parser_refuses_is_an_input_error() -> None:
    def parse(data: bytes) -> Odd:
        raise ParserError("no header")

    codec(Odd, encode=lambda odd: b"", decode=parse, media_type="application/x-odd")
    try:
        target = port(Odd)
        assert target.from_bytes is not None
        with pytest.raises(InputError, match="not a valid Odd: no header"):
            target.from_bytes(b"x")
    finally:
        registry._codecs.pop(Odd)
        registry.register({})


@pytest.mark.usefixtures("odd_codec")
def test_a_codec_counts_inside_of_other_types_too() -> None:
    assert there_and_back(list[Odd], [Odd(3)])[0].n == 3
    assert there_and_back(Odd | None, None) is None


@pytest.mark.usefixtures("odd_codec")
def test_a_codec_in_a_union_is_asked_for_its_own_values_only() -> None:
    assert there_and_back(Odd | str, "text") == "text"
    assert there_and_back(Odd | str, Odd(3)).n == 3
    assert [there_and_back(Odd | None, v) is None for v in (None, Odd(1))] == [True, False]


def test_pictures_and_bytes_inside_of_other_types_are_data_urls() -> None:
    picture = Image(np.zeros((4, 4, 3), np.uint8), 4, 4)
    way = port(list[Image])
    (url,) = way.to_json([picture])
    assert url.startswith("data:image/png;base64,")
    assert there_and_back(list[Image], [picture])[0].width == 4
    assert there_and_back(Image | None, None) is None
    assert there_and_back(dict[str, tuple[bytes, int]], {"a": (b"\xff", 1)}) == {"a": (b"\xff", 1)}
    assert np.array_equal(there_and_back(np.ndarray | None, np.arange(2)), np.arange(2))
    assert way.schema["items"]["format"] == "uri"


def test_what_a_picture_is_made_of_may_be_sent_inside_of_other_types(photo: Path) -> None:
    urls = port(list[Image]).to_json([photo, np.zeros((4, 4, 3), np.uint8)])
    assert [url[:15] for url in urls] == ["data:image/jpeg", "data:image/png;"]


def test_a_caller_may_pass_what_a_picture_is_made_of_inside_of_other_types(photo: Path) -> None:
    (first, second) = port(list[Image]).local([photo, np.zeros((8, 8, 3), np.uint8)])
    assert (first.width, second.width) == (4, 8)
    assert port(ImageSource | None).local(photo) == photo.read_bytes()
    assert port(ImageSource | None).local(None) is None
    assert port(ImageSource | None).to_json(photo).startswith("data:image/jpeg;base64,")


def test_an_alias_is_what_it_stands_for() -> None:
    pictures = TypeAliasType("pictures", list[Image])
    upload = TypeAliasType("upload", Annotated[bytes, Upload(media_type="audio/*")])
    assert port(pictures).local([np.zeros((4, 8, 3), np.uint8)])[0].width == 8
    assert port(upload).media_type == "audio/*"
    assert port(npt.NDArray[np.float32]).media_type == "application/x-npy"


def test_what_is_wrong_inside_of_another_type_is_an_input_error_with_its_place() -> None:
    with pytest.raises(InputError, match=r"^\[1\]: .*not a data: URL"):
        port(list[bytes]).from_json(["data:,a", "b"])


def test_the_type_that_has_no_form_is_the_one_that_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"\[Odd \| None\] cannot be serialized") as caught:
        port(list[Odd | None])
    assert "codec(Odd," in str(caught.value)


def test_a_codec_is_for_a_class() -> None:
    with pytest.raises(DefinitionError, match="for a class"):
        codec(list[int], encode=list, decode=list)  # type: ignore[arg-type]


def test_a_number_is_no_bytes() -> None:
    with pytest.raises(InputError, match="not bytes"):
        port(bytes).local(5)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Literal[1] | str, "1"),
        (Literal[1] | bool, True),
        (Literal[True] | int, 1),
        (Literal[1, Kind.low, True], Kind.low),
        (Kind | str, "1"),
        (Shade | str, "2"),
        (np.ndarray | list[float], [1.0]),
        (pd.DataFrame | dict[str, list[int]], {"a": [1]}),
        (bytes | Path, Path(__file__)),
        (str | bytes | Path, Path("nowhere")),
    ],
    ids=str,
)
def test_a_value_goes_to_the_member_of_a_union_that_it_is_of(type_: Any, value: Any) -> None:
    local = port(type_).local(value)
    assert (type(local), local) == (type(value), value)


@pytest.mark.parametrize(
    ("type_", "value"), [(Literal[1], True), (Literal[1], "1"), (Literal[True], 1), (Shade, "2")]
)
def test_values_of_a_literal_or_an_enum_are_those_of_json(type_: Any, value: Any) -> None:
    with pytest.raises(InputError):
        port(type_).from_json(value)


def test_texts_of_members_are_keys_of_json() -> None:
    value = {Shade.dark: Shade.dark, Shade.light: Shade.light}
    way = port(dict[Shade, Shade])
    assert way.to_json(value) == {"2": 2, "l": "l"}
    assert way.from_json({"2": 2, "l": "l"}) == value
    with pytest.raises(InputError):
        way.from_json({"2": "2"})


@pytest.mark.parametrize(
    "key", [tuple[int, int], tuple[str, ...], Pair, int | None, Parts], ids=str
)
def test_keys_that_are_not_read_back_are_refused(key: Any) -> None:
    for type_ in (dict[key, int], dict[str, dict[key, int]], collections.Counter[key]):
        with pytest.raises(DefinitionError) as caught:
            port(type_)
        assert "list of pairs" in str(caught.value.fix)


def test_a_path_that_is_nowhere_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no such file"):
        port(bytes).local(Path("nowhere"))


# ---- validators that change a value -------------------------------------------------------------


class AfterModel(pydantic.BaseModel):
    n: int

    @pydantic.model_validator(mode="after")
    def _count(self) -> Self:
        self.n += 1
        return self


class BeforeModel(pydantic.BaseModel):
    n: int

    @pydantic.model_validator(mode="before")
    @classmethod
    def _count(cls, data: Any) -> Any:
        return {"n": (data if isinstance(data, dict) else vars(data))["n"] + 1}


class WrapModel(pydantic.BaseModel):
    n: int

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _count(cls, data: Any, handler: Any) -> Self:
        model = handler(data)
        model.n += 1
        return model


class Inherited(AfterModel):
    pass


@pydantic.dataclasses.dataclass
class AfterDataclass:
    n: int

    @pydantic.model_validator(mode="after")
    def _count(self) -> Self:
        self.n += 1
        return self


@pytest.mark.parametrize(
    "cls", [AfterModel, BeforeModel, WrapModel, Inherited, AfterDataclass], ids=lambda c: c.__name__
)
def test_validators_of_a_class_run_once_on_a_value(cls: Any) -> None:
    instance = cls(n=1)
    assert instance.n == 2
    for type_, value in [
        (cls, instance),
        (list[cls], [instance]),
        (dict[str, cls], {"a": instance}),
        (cls | None, instance),
    ]:
        local = port(type_).local(value)
        assert local == value
        assert instance.n == 2
    assert port(cls).local({"n": 1}) == instance
    assert port(cls).from_json({"n": 1}) == instance


@pytest.mark.parametrize("default", [float("inf"), float("nan"), [float("-inf")]])
def test_a_default_that_json_has_not_is_left_out_of_the_schema(default: Any) -> None:
    class Limit(pydantic.BaseModel):
        at: Any = default
        least: float = 0.0

    schema = port(Limit).schema
    assert "default" not in schema["properties"]["at"]
    assert schema["properties"]["least"]["default"] == 0.0


@pytest.mark.parametrize("annotation", [np.ndarray, int, dict])
@pytest.mark.parametrize("body", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_invalid(annotation: Any, body: bytes) -> None:
    with pytest.raises((InputError, pydantic.ValidationError)):
        port(annotation).parse(body)
