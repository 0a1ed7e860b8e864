"""Values of every kind to a served pipeline and back: the same types on both sides; without Ray."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PILImage
from pydantic import BaseModel
from starlette.testclient import TestClient

from mlkit import Image, codec, pipeline, step
from mlkit.errors import InputError, RequestError
from mlkit.serving import asgi
from mlkit.types import ImageSource


def through(type_):
    """A pipeline that gives back what it gets, after a look that it has the right type."""

    @step
    def same(x: type_) -> type_:
        kind = getattr(type_, "__origin__", type_)
        assert isinstance(x, kind), type(x)
        return x

    @pipeline
    def echo(x: type_) -> type_:
        return same(x)

    return echo


class Box(BaseModel):
    x0: int
    name: str = "box"


@dataclass
class Point:
    x: float
    y: float


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 3),
        (float, 0.1),
        (bool, True),
        (str, "grün \x00 ☃"),
        (list[int], [1, 2]),
        (dict[str, float], {"a": 1.5}),
        (Box, Box(x0=1)),
        (list[Box], [Box(x0=1), Box(x0=2, name="b")]),
        (Point, Point(1.0, 2.0)),
        (bytes, b"\x00\xff any"),
    ],
)
def test_a_value_comes_back_as_what_it_was(face, type_, value) -> None:
    back = face(through(type_)).ask(x=value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "bool"])
def test_an_array_keeps_dtype_and_shape(face, dtype) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    back = face(through(np.ndarray)).ask(x=array)
    assert back.dtype == array.dtype
    assert (back == array).all()


def test_a_pickle_in_an_array_is_refused(face) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}]), allow_pickle=True)
    answer = face(through(np.ndarray)).post(
        "/echo", content=buffer.getvalue(), headers={"content-type": "application/x-npy"}
    )
    assert answer.status_code == 422
    assert ".npy" in answer.json()["detail"]


def test_a_frame_comes_back_as_a_frame(face) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    back = face(through(pd.DataFrame)).ask(x=frame)
    assert list(back.columns) == ["a", "b"]
    assert back["a"].tolist() == [1, 2]
    assert face(through(pd.DataFrame)).post("/echo", json={"x": 3}).status_code == 422


def test_a_picture_comes_back_as_a_picture(face) -> None:
    back = face(through(Image)).ask(x=PILImage.new("RGB", (4, 3), "red"))
    assert isinstance(back, Image)
    assert (back.width, back.height) == (4, 3)


@pytest.mark.parametrize("cut", [0.5, 0.02])
def test_what_is_no_picture_is_the_callers_fault(face, cut) -> None:
    buffer = io.BytesIO()
    PILImage.effect_noise((64, 64), 50).save(buffer, "PNG")
    data = buffer.getvalue()
    answer = face(through(Image)).post(
        "/echo", content=data[: int(len(data) * cut)], headers={"content-type": "image/png"}
    )
    assert answer.status_code in (415, 422), answer.text


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def test_a_type_of_ones_own_goes_by_its_codec(face) -> None:
    codec(Money, encode=lambda m: m.cents, decode=lambda n: Money(int(n)))
    client = face(through(Money))
    assert client.ask(x=Money(5)).cents == 5
    assert client.post("/echo", json={"x": "five"}).status_code == 422


def test_the_clients_error_has_what_the_answer_says(face, tagger) -> None:
    with pytest.raises(RequestError, match="step 'look' failed: ValueError") as caught:
        face(tagger).ask(image=b"boom")
    assert (caught.value.http_status, caught.value.step) == (500, "look")
    assert caught.value.failure_id


def test_an_error_that_is_no_problem_document_is_told_as_it_is(face, tagger) -> None:
    error = face(tagger).codec.error(502, b"<html>bad</html>")
    assert error.http_status == 502
    assert "<html>bad" in str(error)


def test_an_argument_nobody_knows_is_told_before_anything_is_sent(face, tagger) -> None:
    with pytest.raises(InputError, match="colour"):
        face(tagger).ask(image=b"1", colour="red")


def test_fields_beside_a_picture_come_through_as_they_are(face, tagger) -> None:
    title = "a&b=c ? # % ü ☃"
    assert face(tagger).ask(image=b"1", title=title, top=3) == {title: 4}


def test_two_files_travel_together(face) -> None:
    @step
    def lengths(a: bytes, b: bytes, scale: list[int]) -> list[int]:
        return [len(a) * scale[0], len(b) * scale[1]]

    @pipeline
    def both(a: bytes, b: bytes, scale: list[int]) -> list[int]:
        return lengths(a, b, scale)

    assert face(both).ask(a=b"12", b=b"345", scale=[1, 2]) == [2, 6]


def test_others_get_an_array_as_lists(face) -> None:
    answer = face(through(np.ndarray)).post("/echo", json={"x": [[1, 2], [3, 4]]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [[1, 2], [3, 4]]


def test_what_is_not_a_number_is_null_in_json(face) -> None:
    @step
    def halves(x: float) -> np.ndarray:
        return np.array([x, np.nan])

    @pipeline
    def halve(x: float) -> np.ndarray:
        return halves(x)

    answer = face(halve).post("/halve", json={"x": 1.0})
    assert answer.json() == [1.0, None]


@step
def widths(pictures: list[Image], words: list[str]) -> str:
    return " ".join([*(str(picture.width) for picture in pictures), *words])


@pipeline
def one_and_words(picture: Image, shop: str, model_id: str = "b") -> str:
    return widths([picture], [shop, model_id])


@pipeline
def one_and_defaults(picture: Image, title: str = "none") -> str:
    return widths([picture], [title])


@pipeline
def two(first: Image, second: Image, title: str = "none") -> str:
    return widths([first, second], [title])


@pipeline
def many(pictures: list[Image], title: str) -> str:
    return widths(pictures, [title])


@pytest.mark.parametrize(
    ("uploads", "arguments"),
    [
        (one_and_words, {"picture": 5, "shop": "shop 7"}),
        (one_and_words, {"picture": 5, "shop": "a", "model_id": "kind@production"}),
        (one_and_defaults, {"picture": 5}),
        (one_and_defaults, {"picture": 5, "title": "x&y"}),
        (one_and_defaults, {"picture": 5, "title": "x" * 5_000}),
        (two, {"first": 5, "second": 6}),
        (two, {"first": 5, "second": 6, "title": "t"}),
        (many, {"pictures": [5, 6], "title": "t"}),
        (many, {"pictures": [5], "title": "t"}),
    ],
)
def test_the_server_takes_the_form_in_which_a_load_test_sends(face, uploads, arguments) -> None:
    def drawn(value):
        if isinstance(value, list):
            return [drawn(item) for item in value]
        if isinstance(value, int):
            return Image(np.zeros((4, value, 3), np.uint8), value, 4)
        return value

    arguments = {name: drawn(value) for name, value in arguments.items()}
    client = face(uploads)
    url = f"{client.base_url}/{uploads.name}"
    request = client.codec.public_request(url, None, arguments)
    response = client.post(request.url, headers=request.headers, content=request.body)
    assert response.status_code == 200, response.text
    assert response.json() == uploads(**arguments)


@step
def same(source: ImageSource) -> ImageSource:
    return source


@pipeline
def echo(source: ImageSource) -> ImageSource:
    return same(source)


@pytest.mark.parametrize("prefix", ["", "file://", "FILE://localhost", "./", "~/../"])
def test_a_client_cannot_name_a_file_of_the_server(tmp_path, prefix) -> None:
    (tmp_path / "secret").write_text("the content of a file")
    client = TestClient(asgi(echo))
    response = client.post("/echo", json={"source": f"{prefix}{tmp_path / 'secret'}"})
    assert response.status_code == 422
    assert "an http(s) or data: URL" in response.text
    assert client.post("/echo", json={"source": "https://example.com/a.jpg"}).status_code == 200
