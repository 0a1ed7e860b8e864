"""Commands of `App.curl`, parsed and sent to the pipeline's own application."""

from __future__ import annotations

import enum
import io
import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import pydantic
import pytest
from annotated_types import Ge, Gt, Lt, MinLen, MultipleOf
from numpy.typing import NDArray
from starlette.testclient import TestClient

from mlkit import Image, ImageSource, InputError, Upload, pipeline, step
from mlkit.plan import plan
from mlkit.serving import App, asgi
from mlkit.serving.kernel.session import Session
from mlkit.types import Audio, Video
from tests.media.recorded import film

TOKEN = "secret-token"


class Colour(enum.Enum):
    RED = "red"


class Tree(pydantic.BaseModel):
    name: Annotated[str, MinLen(6)]
    children: list[Tree]
    parent: Tree | None


class Order(pydantic.BaseModel):
    at: datetime
    id: uuid.UUID
    site: pydantic.HttpUrl
    colour: Colour
    pair: tuple[int, str]
    weights: dict[str, float]
    note: str = ""


@step
def describe(value: Any, more: Any = None) -> str:
    return f"{type(value).__name__} {more}"


@pytest.fixture
def app_of(tmp_path: Path, record_of: Callable[..., Any]) -> Callable[..., App]:
    """Returns a function: pipeline to an app of it whose session keeps its files here."""

    def make(pipe: Any, token: str | None = TOKEN) -> App:
        planned = plan(pipe)
        return App(Session(tmp_path), planned, record_of(planned, token))

    return make


def send(command: str, pipe: Any, folder: Path, token: str | None = TOKEN) -> Any:
    """Sends what a command would, as curl reads it; returns the response."""
    program, *words = shlex.split(command)
    assert program == "curl"
    headers: dict[str, str] = {}
    files: dict[str, bytes] = {}
    data: dict[str, str] = {}
    parts: dict[str, Any] = {}
    assert words.pop(0) == "-sS"
    if words[0] == "-N":  # do not buffer
        words.pop(0)
    while words[0].startswith("-"):
        option, value, words = words[0], words[1], words[2:]
        match option:
            case "-H":
                text = Path(value[1:]).read_text() if value[0] == "@" else value
                name, _, content = text.strip().partition(": ")
                headers[name] = content
            case "-F":
                name, _, path = value.partition("=@")
                files[name] = (folder / path.strip('"')).read_bytes()
            case "--form-string":
                name, _, data[name] = value.partition("=")
            case "-d":
                parts["content"] = value
    if files:
        parts |= {"files": files, "data": data}
    (url,) = words
    with TestClient(asgi(pipe, token=token), base_url="http://127.0.0.1:1") as client:
        return client.post(url, headers=headers, **parts)


def piped(type_: Any) -> Any:
    """A pipeline with one argument of a type."""

    def tell(value: Any) -> str:
        return describe(value)

    tell.__annotations__ = {"value": type_, "return": str}
    return pipeline(tell)


TYPES = [
    str,
    int,
    float,
    bool,
    Annotated[int, Ge(5)],
    Annotated[float, Gt(0), Lt(1)],
    Annotated[int, Ge(10), MultipleOf(7)],
    Literal["a", "b"],
    Colour,
    date,
    list[int],
    Annotated[list[int], MinLen(3)],
    dict[str, int],
    tuple[int, str],
    str | None,
    int | list[str],
    Order,
    Tree,
    list[Tree],
    NDArray[np.float32],
    list[Image],
    bytes,
    Annotated[bytes, Upload(media_type="audio/*")],
    Audio,
    Video,
    Image,
    ImageSource,
]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_it_works_without_arguments(type_: Any, app_of: Callable[..., App], tmp_path: Path) -> None:
    picture = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(picture, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(picture.getvalue())
    (tmp_path / "data.bin").write_bytes(b"123")
    (tmp_path / "sound.wav").write_bytes(Audio([0.0, 0.5], 8_000).wav())
    (tmp_path / "clip.mp4").write_bytes(film([0]))
    pipe = piped(type_)
    response = send(app_of(pipe).curl(), pipe, tmp_path)
    assert response.status_code == 200, response.text


def test_it_sends_the_arguments_it_is_given(app_of: Callable[..., App], tmp_path: Path) -> None:
    @pipeline
    def add(text: str, more: dict[str, int], note: str = "") -> str:
        return describe(text, [more, note])

    command = app_of(add).curl("it's $HOME", {"a": 1}, note='say "no"')
    response = send(command, add, tmp_path)
    assert response.json() == "str [{'a': 1}, 'say \"no\"']"


UPLOADS = {
    "a path": "a shoe; blue.png",
    "a path object": Path("a shoe; blue.png"),
    "bytes": b"\x89PNG",
    "a picture": np.zeros((4, 4, 3), np.uint8),
}


@pytest.mark.parametrize("given", UPLOADS.values(), ids=UPLOADS.keys())
def test_an_upload_is_a_file_beside_fields(
    given: Any, app_of: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "a shoe; blue.png").write_bytes(b"12")

    @pipeline
    def look(image: ImageSource, title: str, sizes: list[int]) -> str:
        return describe(image, [title, sizes])

    command = app_of(look).curl(given, title="@home", sizes=[1, 2])
    assert command.count("-F ") == 1
    response = send(command, look, tmp_path)
    assert response.json() == "bytes ['@home', [1, 2]]"


def test_several_uploads_are_parts_of_one_form(app_of: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"12")

    @pipeline
    def both(a: bytes, b: bytes) -> str:
        return describe(a, b)

    response = send(app_of(both).curl(b"1", "b.bin"), both, tmp_path)
    assert response.json() == "bytes b'12'"


def test_items_are_shown_as_they_arrive(app_of: Callable[..., App], tmp_path: Path) -> None:
    @step
    def spell(text: str, data: bytes) -> Iterator[str]:
        yield from text

    @pipeline
    def spelling(text: str, data: bytes = b"") -> Iterator[str]:
        return spell(text, data)

    for arguments in ({}, {"data": b"1"}):
        command = app_of(spelling).curl("ab", **arguments)
        assert "-N" in shlex.split(command)
        response = send(command, spelling, tmp_path)
        assert response.text.startswith('event: item\ndata: "a"\n\n')
    assert "-N" not in shlex.split(app_of(piped(str)).curl())


def test_a_url_in_place_of_an_upload_stays_one(app_of: Callable[..., App]) -> None:
    words = shlex.split(app_of(piped(ImageSource)).curl("https://example.com/a.jpg"))
    assert json.loads(words[words.index("-d") + 1]) == {"value": "https://example.com/a.jpg"}


def test_a_pipeline_without_arguments_is_sent_an_empty_object(
    app_of: Callable[..., App], tmp_path: Path
) -> None:
    @pipeline
    def nothing() -> str:
        return describe(1)

    assert send(app_of(nothing).curl(), nothing, tmp_path).status_code == 200


def test_the_token_is_referred_to_by_its_file(app_of: Callable[..., App], tmp_path: Path) -> None:
    pipe = piped(int)
    command = app_of(pipe).curl(3)
    assert TOKEN not in command
    assert send(command, pipe, tmp_path).status_code == 200
    open_command = app_of(pipe, token=None).curl(3)
    assert "header" not in open_command
    assert send(open_command, pipe, tmp_path, token=None).status_code == 200


def test_an_argument_that_does_not_fit_is_refused(app_of: Callable[..., App]) -> None:
    with pytest.raises(InputError, match="unexpected argument 'vlaue'") as caught:
        app_of(piped(int)).curl(vlaue=1)
    assert caught.value.fix == "did you mean 'value'?"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_has_not_are_texts(value: float, tmp_path: Path) -> None:
    @step
    def same(x: list[float]) -> str:
        return str(x)

    @pipeline
    def echo(x: list[float]) -> str:
        return same(x)

    from mlkit.serving.kernel.client import Codec
    from mlkit.serving.kernel.curl import curl

    words = shlex.split(curl(Codec(echo.graph), "http://a/echo", None, {"x": [value]}, tmp_path))
    body = words[words.index("-d") + 1]
    assert json.loads(body, parse_constant=pytest.fail)
    with TestClient(asgi(echo)) as client:
        headers = {"content-type": "application/json"}
        assert client.post("/echo", content=body, headers=headers).json() == str([value])
