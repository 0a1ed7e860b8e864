"""What the tests of views share: a tagging pipeline without its models, and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from pydantic import BaseModel

from mlkit import Image, ImageSource, Pipeline, batched_step, pipeline, resource, step


class Label(BaseModel):
    name: str
    score: float


class Seen(NamedTuple):
    logits: list[float]
    features: list[float]
    activation: list[float]


class Tags(BaseModel):
    tags: list[str]


def load_net() -> int:
    raise NotImplementedError("a view runs nothing")


@step
async def download(image: ImageSource) -> bytes:
    raise NotImplementedError("a view runs nothing")


@step
def decode(data: bytes) -> Image:
    raise NotImplementedError("a view runs nothing")


@batched_step(max_batch_size=16)
def look(pictures: list[Image], *, net: int = resource(load_net)) -> list[Seen]:
    raise NotImplementedError("a view runs nothing")


@step
def labels(logits: list[float]) -> list[Label]:
    raise NotImplementedError("a view runs nothing")


@step
def kind(features: list[float]) -> Label | None:
    raise NotImplementedError("a view runs nothing")


@step
def localise(activation: list[float], picture: Image) -> str | None:
    raise NotImplementedError("a view runs nothing")


@step
def colours(picture: Image, box: str | None) -> list[str]:
    raise NotImplementedError("a view runs nothing")


@step
def words(title: str) -> list[str]:
    raise NotImplementedError("a view runs nothing")


@step
def combine(
    labels: list[Label], kind: Label | None, box: str | None, colours: list[str], words: list[str]
) -> Tags:
    raise NotImplementedError("a view runs nothing")


@pipeline
def tag(image: ImageSource, title: str = "") -> Tags:
    """Tag one product.

    Not shown.
    """
    picture = decode(download(image))
    seen = look(picture)
    box = localise(seen.activation, picture)
    return combine(
        labels(seen.logits), kind(seen.features), box, colours(picture, box), words(title)
    )


@pipeline
def wrong(image: ImageSource, title: str = "") -> list[str]:
    """Two things are wrong."""
    decode(title)  # type: ignore[arg-type]
    return words(title)


@pytest.fixture
def tagging() -> Pipeline[..., Tags]:
    """Nine steps, five of them side by side."""
    return tag


@pytest.fixture
def troubled() -> Pipeline[..., list[str]]:
    """A type that does not fit, in a step whose result reaches nothing."""
    return wrong


@pytest.fixture
def chain() -> Callable[..., Pipeline[..., str]]:
    """Makes a pipeline of steps in a row, with given names."""

    def made(*names: str, doc: str = "") -> Pipeline[..., str]:
        def one(name: str):  # type: ignore[no-untyped-def]
            def fn(text: str) -> str:
                return text

            fn.__name__ = name
            return step(fn)

        steps = [one(name) for name in names]

        def row(text: str) -> str:
            for each in steps:
                text = each(text)
            return text

        row.__doc__ = doc
        row.__annotations__ = {"text": str, "return": str}
        return pipeline(row)

    return made
