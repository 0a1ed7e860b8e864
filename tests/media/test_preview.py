"""A value in a line, whatever it is."""

import base64
import dataclasses
import enum
import io
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import pydantic
import pytest

from mlkit.media.image import Image
from mlkit.media.preview import THUMBNAIL, preview, size, words


class Label(pydantic.BaseModel):
    name: str
    score: float


@dataclasses.dataclass
class Box:
    x0: int
    secret: str = dataclasses.field(default="hidden", repr=False)


class Pair(NamedTuple):
    left: int
    right: Any


class Kind(enum.Enum):
    shirt = 1


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError("no repr today")


class Worse:
    """Fails wherever it is asked for something."""

    dtype = property(lambda self: 1 / 0)
    shape = (1, 2)


class Endless:
    def __repr__(self) -> str:
        return "x" * 100_000


def thumbnail(url: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (0.123456, "0.1235"),
        ("shoe", "'shoe'"),
        (b"\xff\xd8\xff" + bytes(24_100), "bytes, 24.1 kB, JPEG"),
        (b"", "bytes, 0 bytes"),
        (bytearray(5), "bytearray, 5 bytes"),
        (Kind.shirt, "Kind.shirt"),
        (Label(name="a", score=0.51234), "Label(name='a', score=0.5123)"),
        (Box(3), "Box(x0=3)"),
        (Pair(1, [2, 3]), "Pair(left=1, right=[2, 3])"),
        ([1, 2], "[1, 2]"),
        ((1,), "(1)"),
        ({"a": [1]}, "{'a': [1]}"),
        ([], "[]"),
        (list(range(10)), "[0, 1, 2, 3, … 6 more]"),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "{'a': 1, 'b': 2, 'c': 3, 'd': 4, … 1 more}"),
        ([[[[[1]]]]], "[[[[…]]]]"),
        (np.float32(0.5), "0.5"),
        (np.arange(6, dtype=np.float32).reshape(2, 3), "float32 [2, 3] from 0 to 5"),
        (np.zeros((0, 3)), "float64 [0, 3]"),
        (np.full(3, 7), "int64 [3] all 7"),
        (np.array(["a"]), "<U1 [1]"),
        (np.array([None]), "object [1]"),
        (np.array([1.0, np.nan]), "float64 [2] from nan to nan"),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), "DataFrame 2 × 2: a, b"),
        (PIL.Image.new("RGB", (30, 20)), "Image 30 × 20"),
        (Image(np.zeros((4, 5, 3), np.uint8), 50, 40), "Image 50 × 40"),
        (Bad(), "<Bad, cannot be shown: RuntimeError>"),
        ([Bad(), 1], "[<Bad, cannot be shown: RuntimeError>, 1]"),
        (Label, "<class 'tests.media.test_preview.Label'>"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_words(value: Any, text: str) -> None:
    assert words(value) == text


@pytest.mark.parametrize(
    "value", [Endless(), "y" * 10_000, {"k" * 999: "v" * 999}, [Endless()] * 99, Pair(1, Endless())]
)
def test_words_are_few(value: Any) -> None:
    assert len(words(value)) <= 140


@pytest.mark.parametrize("value", [Worse(), [Worse()], object(), lambda: 1, type])
def test_nothing_breaks_a_view(value: Any) -> None:
    assert preview(value).text


def test_a_list_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert words(loop) == "[[[[…]]]]"


def test_addresses_are_left_out() -> None:
    assert "0x" not in words(object())
    assert "0x" not in words(lambda: 1)


def test_a_tensor_is_an_array() -> None:
    torch = pytest.importorskip("torch")
    assert words(torch.arange(3)) == "int64 [3] from 0 to 2"


@pytest.mark.parametrize(
    "picture",
    [
        Image(np.full((300, 600, 3), 200, np.uint8), 600, 300),
        PIL.Image.new("RGB", (600, 300), (200, 200, 200)),
        np.full((300, 600, 3), 200, np.uint8),
        PIL.Image.new("L", (600, 300), 200),
        PIL.Image.new("CMYK", (600, 300)),
    ],
    ids=["ours", "PIL", "array", "grey", "CMYK"],
)
def test_pictures_have_thumbnails(picture: Any) -> None:
    (url,) = preview(picture).thumbnails
    assert url.startswith("data:image/jpeg;base64,")
    assert thumbnail(url).size == (THUMBNAIL, THUMBNAIL // 2)


def test_a_thumbnail_shows_the_picture() -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:, 200:] = (255, 0, 0)
    small = thumbnail(preview(pixels).thumbnails[0]).convert("RGB")
    assert np.allclose(small.getpixel((20, 48)), (0, 0, 0), atol=10)
    assert np.allclose(small.getpixel((76, 48)), (255, 0, 0), atol=10)


def test_transparency_is_kept() -> None:
    (url,) = preview(PIL.Image.new("RGBA", (40, 40), (255, 0, 0, 90))).thumbnails
    assert url.startswith("data:image/png")
    assert thumbnail(url).getpixel((5, 5)) == (255, 0, 0, 90)


def test_a_small_picture_is_not_blown_up() -> None:
    assert thumbnail(preview(np.zeros((10, 20, 3), np.uint8)).thumbnails[0]).size == (20, 10)


def test_of_a_list_the_first_three_are_shown() -> None:
    picture = PIL.Image.new("RGB", (10, 10))
    assert len(preview([picture] * 10).thumbnails) == 3
    assert len(preview([picture, 1, "a"]).thumbnails) == 1


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((3, 224, 224), np.uint8),
        np.zeros((224, 224, 3), np.float32),
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        b"bytes",
        None,
    ],
)
def test_what_may_be_no_picture_has_none(value: Any) -> None:
    assert preview(value).thumbnails == ()


def test_a_broken_picture_is_told_in_words() -> None:
    broken = Image(np.zeros((4, 4, 9), np.uint8), 4, 4)
    assert preview(broken) == preview(broken)
    assert preview(broken).thumbnails == ()
    assert preview(broken).text == "Image 4 × 4"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (24_130, "24.1 kB"),
        (5_250_000, "5.25 MB"),
        (3e9, "3 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
