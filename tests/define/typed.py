"""What editors and type checkers make of steps and pipelines; ``make lint`` checks it with mypy.

An error that is expected and does not occur is an unused ``type: ignore``, which mypy reports.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

from mlkit import Image, ImageSource, batched_step, pipeline, resource, step


class Net: ...


def load() -> Net:
    return Net()


@step
async def download(image: ImageSource) -> bytes:
    return b""


@step
def decode(data: bytes, *, size: int = 1) -> Image:
    return Image.open(data)


@batched_step(max_batch_size=16)
def classify(pictures: list[Image], *, net: Net = resource(load)) -> list[str]:
    return []


@batched_step
def plain(pictures: list[Image]) -> tuple[str, ...]:
    return ()


@batched_step
def both(pictures: list[Image], titles: list[str]) -> list[int]:
    return []


@batched_step
def arrays(xs: np.ndarray) -> np.ndarray:
    return xs


@step
def split(x: int) -> tuple[int, str]:
    return x, ""


@pipeline
def tag(image: ImageSource, title: str = "") -> str:
    _, text = split(1)
    assert_type(text, str)
    return classify(decode(download(image)))


@pipeline
def wrong(title: str) -> str:
    return decode(title)  # type: ignore[return-value, arg-type]


def values(picture: Image) -> None:
    assert_type(decode(b"", size=3), Image)
    assert_type(download("shoe.jpg"), bytes)
    assert_type(classify(picture), str)
    assert_type(classify.batch([picture]), list[str])
    assert_type(plain(picture), str)
    assert_type(both(picture, "title"), int)
    assert_type(arrays(3), Any)
    assert_type(tag("shoe.jpg", title="shoe"), str)
    assert_type(tag.replace(decode=decode)("shoe.jpg"), str)
    assert_type(resource(load), Net)
    assert_type(resource(value=3), int)
    classify.fn([picture], net=Net())


def errors(picture: Image) -> None:
    decode(3)  # type: ignore[arg-type]
    download(image=3)  # type: ignore[arg-type]
    classify([picture])  # type: ignore[arg-type]
    both(picture)  # type: ignore[call-arg]
    classify(picture, net=3)  # type: ignore[arg-type]
    tag("shoe.jpg", titel="shoe")  # type: ignore[call-arg]
    resource(load, value=3)  # type: ignore[call-overload]
