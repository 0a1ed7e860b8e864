# %%
from collections.abc import Iterator

from pydantic import BaseModel

from mlkit import pipeline, step


# %%
class Token(BaseModel):
    text: str
    weight: float


# %%
@step
def words(text: str) -> list[str]:
    return text.split()


# %%
@step
def tokens(words: list[str]) -> Iterator[Token]:
    for place, word in enumerate(words, 1):
        yield Token(text=word, weight=1 / place)


# %%
@pipeline
def spell(text: str) -> Iterator[Token]:
    return tokens(words(text))


# %%
spell("a stream of words — ü")

# %%
spell("")
