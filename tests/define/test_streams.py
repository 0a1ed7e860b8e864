"""Where a step may stream, and what is said where it may not."""

from collections.abc import AsyncIterator, Generator, Iterable, Iterator

import pytest

from mlkit import batched_step, branch, each, pipeline, step
from mlkit.errors import DefinitionError


@step
def tokens(prompt: str) -> Iterator[str]:
    yield from prompt.split()


@step
async def tokens_async(prompt: str) -> AsyncIterator[str]:
    yield prompt


@step
def tokens_generator(prompt: str) -> Generator[str, None, None]:
    yield prompt


@step
def tokens_returned(prompt: str) -> Iterable[str]:
    return (word for word in prompt.split())


@step
def join(words: list[str]) -> str:
    return " ".join(words)


@step
def lower(prompt: str) -> str:
    return prompt.lower()


def whats(pipe) -> list[str]:
    return [problem.what for problem in pipe.problems]


@pytest.mark.parametrize("used", [tokens, tokens_async, tokens_generator, tokens_returned])
def test_the_last_step_may_stream(used) -> None:
    @pipeline
    def say(prompt: str) -> Iterator[str]:
        return used(lower(prompt))

    assert whats(say) == []
    assert say.graph.streams
    assert (say.graph.items, say.graph.returns) == (str, list[str])
    assert "Iterator[str]" in say.graph.signature
    assert "Iterator[str]" in str(say.graph)


def test_the_arms_of_a_branch_may_all_stream() -> None:
    @pipeline
    def say(prompt: str, kind: str) -> Iterator[str]:
        return branch(kind, {"a": tokens, "b": tokens_async})(prompt)

    assert whats(say) == []
    assert say("x y", "a") == ["x", "y"]
    assert say("x y", "b") == ["x y"]


def test_a_step_in_the_middle_may_not() -> None:
    @pipeline
    def say(prompt: str) -> str:
        return join(tokens(prompt))

    assert whats(say) == ["it streams, so it can only be the last step of a pipeline"]
    assert "list[T]" in say.problems[0].fix
    assert say("a b") == "a b"  # a problem blocks deployment only


def test_a_part_of_a_result_may_not() -> None:
    @pipeline
    def say(prompt: str) -> dict[str, list[str]]:
        return {"words": tokens(prompt)}

    assert any("only be the last step" in what for what in whats(say))


def test_annotations_of_step_and_pipeline_belong_together() -> None:
    @pipeline
    def listed(prompt: str) -> list[str]:
        return tokens(prompt)

    @step
    def split(prompt: str) -> list[str]:
        return prompt.split()

    @pipeline
    def iterated(prompt: str) -> Iterator[str]:
        return split(prompt)

    @step
    def wrong(prompt: str) -> str:
        yield prompt

    @pipeline
    def mislabelled(prompt: str) -> Iterator[str]:
        return wrong(prompt)

    assert any("which streams" in what for what in whats(listed))
    assert any("does not stream" in what for what in whats(iterated))
    assert any("not annotated as such" in what for what in whats(mislabelled))


@pytest.mark.parametrize("type_", [Iterator[int], Iterable[int], Generator[int, None, None]])
def test_an_argument_that_can_be_read_once_is_a_problem(type_) -> None:
    @step
    def total(numbers: type_) -> int:
        return sum(numbers)

    @pipeline
    def add(numbers: type_) -> int:
        return total(numbers)

    assert "the argument 'numbers' could be read only once" in whats(add)


def test_an_iterator_that_must_be_awaited_is_a_problem() -> None:
    @step
    def opened(prompt: str) -> AsyncIterator[str]:
        return tokens_async.fn(prompt)

    @pipeline
    def say(prompt: str) -> Iterator[str]:
        return opened(prompt)

    assert any("has to be awaited" in what for what in whats(say))


def test_a_batched_step_may_not_and_each_runs_none() -> None:
    with pytest.raises(DefinitionError, match="a batched step cannot stream"):

        @batched_step
        def many(prompts: list[str]) -> Iterator[str]:
            yield from prompts

    with pytest.raises(DefinitionError, match="each cannot run a step that streams"):
        each(tokens, ["a"])


def test_a_pipeline_does_not_yield() -> None:
    with pytest.raises(DefinitionError, match="does not yield"):

        @pipeline
        def say(prompt: str) -> Iterator[str]:
            yield prompt
