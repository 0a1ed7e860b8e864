"""Small pipelines that are measured for what is around their steps."""

from __future__ import annotations

import hashlib
import time

from pydantic import BaseModel

from mlkit.define import batched_step, resource, step
from mlkit.pipelines import pipeline

__all__ = ["Answer", "Question", "echo", "hashes", "staged"]


class Question(BaseModel):
    """What is sent: a kilobyte of JSON, most of it text."""

    text: str
    number: int = 0


class Answer(BaseModel):
    """What comes back: the same."""

    text: str
    number: int


@step
async def same(question: Question) -> Answer:
    """Do nothing, asynchronously."""
    return Answer(text=question.text, number=question.number)


@pipeline
def echo(question: Question) -> Answer:
    """Send back what came."""
    return same(question)


@batched_step(max_batch_size=8)
def digest(texts: list[str]) -> list[str]:
    """Hash a batch of texts, slowly; one that says "bad" fails it."""
    time.sleep(0.004)
    if any(text.startswith("bad") for text in texts):
        raise ValueError("a bad one")
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


@pipeline
def hashes(text: str) -> str:
    """One batched step."""
    return digest(text)


def load() -> float:
    """A model whose value says when it was loaded."""
    return time.time()


@step(stage="one")
def first(text: str) -> str:
    """The first of five stages."""
    return f"{text} 1"


@step(stage="two")
def second(text: str, *, model: float = resource(load)) -> str:
    """The second, which has a model."""
    return f"{text} 2"


@step(stage="three")
def third(text: str) -> str:
    """The third: it is the one that is changed."""
    return f"{text} 3"


@step(stage="four")
def fourth(text: str) -> str:
    """The fourth."""
    return f"{text} 4"


@step(stage="five")
def fifth(text: str, *, model: float = resource(load)) -> str:
    """The fifth, which says when its model was loaded."""
    return f"{text} 5 {model}"


@pipeline
def staged(text: str) -> str:
    """Five stages, one after the other."""
    return fifth(fourth(third(second(first(text)))))
