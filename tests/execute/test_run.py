"""Running once: values flow, failures carry what there was, given values skip what is upstream."""

import asyncio
import functools
import signal
import threading
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from mlkit.define import Step, batched_step, resource, step
from mlkit.define.step import running_step
from mlkit.errors import Cancelled, DefinitionError, InputError, MlkitError, StepError
from mlkit.pipelines import Pipeline, pipeline


@step
def double(x: int) -> int:
    return 2 * x


@step
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@batched_step(max_batch_size=4)
def squares(xs: list[int]) -> list[int]:
    return [x * x for x in xs]


@step
def add(a: int, b: int, c: int = 0) -> int:
    return a + b + c


@step
def fail(x: int) -> int:
    raise ValueError(f"cannot take {x}")


@pipeline
def mixed(x: int, y: int = 10) -> int:
    a = double(x)
    b = later(a)
    return add(squares(b), a, y)


def test_values_flow_through_sync_async_and_batched_steps() -> None:
    assert mixed(3) == 7 * 7 + 6 + 10
    assert mixed(3, y=0) == 7 * 7 + 6


def test_a_run_has_every_value_and_when_it_was_there() -> None:
    run = mixed.run(3)
    assert [node.name for node in run.nodes] == ["double", "later", "squares", "add"]
    assert [node.value for node in run.nodes] == [6, 7, 49, 65]
    assert {node.status for node in run.nodes} == {"done"}
    for earlier, after in zip(run.nodes, run.nodes[1:], strict=False):
        assert 0 <= earlier.start_s <= earlier.finish_s <= after.ready_s <= after.start_s
    assert run.nodes[-1].finish_s <= run.total_s
    assert run.value == 65


def test_an_unknown_node_of_a_run_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="double, later, squares, add"):
        mixed.run(3)["nope"]


def test_it_runs_where_a_loop_already_runs() -> None:
    async def cell() -> int:
        return mixed(3)

    assert asyncio.run(cell()) == 65


def test_independent_steps_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)

    @step
    def left(x: int) -> int:
        return both.wait()

    @step
    def right(x: int) -> int:
        return both.wait()

    @pipeline
    def meet(x: int) -> int:
        return add(left(x), right(x))

    assert meet.map([0], progress=False, workers=2) == [1]


def test_independent_async_steps_wait_side_by_side() -> None:
    here: list[str] = []

    async def meet(name: str) -> int:
        here.append(name)
        while len(here) < 2:
            await asyncio.sleep(0)
        return 1

    @step
    async def left(x: int) -> int:
        return await meet("left")

    @step
    async def right(x: int) -> int:
        return await meet("right")

    @pipeline
    def both(x: int) -> int:
        return add(left(x), right(x))

    assert both(0) == 2


def test_selections_collections_and_constants_reach_the_steps() -> None:
    class Box(BaseModel):
        width: int

    class Size(NamedTuple):
        wide: int
        high: int

    @step
    def measure(x: int) -> tuple[Box, Size]:
        return Box(width=x), Size(x, 2 * x)

    @step
    def total(parts: list[int], named: dict[str, int], extra: int) -> int:
        return sum(parts) + sum(named.values()) + extra

    @pipeline
    def pick(x: int) -> int:
        box, size = measure(x)
        return total([box.width, size.high, 100], {"wide": size.wide}, 1000)

    assert pick(1) == 1 + 2 + 100 + 1 + 1000


def test_a_pipeline_may_return_several_results() -> None:
    @pipeline
    def both(x: int) -> dict[str, int]:
        a = double(x)
        return {"a": a, "b": later(a)}

    assert both(1) == {"a": 2, "b": 3}


def test_what_is_returned_may_be_the_argument_itself() -> None:
    @pipeline
    def nothing_to_do(x: int) -> int:
        return x

    assert nothing_to_do(4) == 4
    assert nothing_to_do.map([1, 2], progress=False) == [1, 2]


# ---- given ----------------------------------------------------------------------------------


def test_given_values_skip_what_is_upstream_and_its_arguments() -> None:
    run = mixed.run(given={"later": 5, "double": 1})
    assert run.value == 25 + 1 + 10
    assert [node.status for node in run.nodes] == ["given", "given", "done", "done"]
    assert run["later"].value == 5


def test_a_given_value_leaves_what_another_branch_needs() -> None:
    run = mixed.run(3, given={"squares": 0})
    assert run.value == 0 + 6 + 10
    assert run["double"].status == "done"
    assert run["later"].status == "not run"


def test_a_given_value_leaves_what_a_node_on_another_branch_needs() -> None:
    @pipeline
    def diamond(x: int) -> int:
        a = double(x)
        return add(squares(a), later(a))

    run = diamond.run(3, given={"squares": 0})
    assert run.value == 0 + 7


def test_given_the_last_node_nothing_runs() -> None:
    run = mixed.run(given={"add": 1})
    assert run.value == 1
    assert {node.status for node in run.nodes[:-1]} == {"not run"}


def test_an_argument_that_is_still_needed_is_asked_for() -> None:
    with pytest.raises(InputError, match="'x'"):
        mixed.run(given={"squares": 0})


def test_a_given_name_that_is_no_node_is_an_input_error() -> None:
    with pytest.raises(InputError, match="double, later, squares, add"):
        mixed.run(3, given={"sqares": 0})


def test_a_given_value_that_is_none_counts() -> None:
    @step
    def show(a: int | None) -> str:
        return repr(a)

    @pipeline
    def shown(x: int) -> str:
        return show(double(x))

    assert shown.run(given={"double": None}).value == "None"


def test_replaced_steps_run_instead() -> None:
    @step
    def triple(x: int) -> int:
        return 3 * x

    assert mixed.replace(double=triple)(3) == 10 * 10 + 9 + 10
    assert mixed(3) == 65


# ---- resources ------------------------------------------------------------------------------


def test_resources_are_built_once_and_only_those_needed() -> None:
    built: list[str] = []

    def load(name: str) -> object:
        built.append(name)
        return name

    def load_one() -> object:
        return load("one")

    def load_two() -> object:
        return load("two")

    one = resource(load_one)

    @step
    def first(x: int, *, r: object = one) -> int:
        return x

    @batched_step
    def second(xs: list[int], *, r: object = one, s: object = resource(load_two)) -> list[int]:
        assert (r, s) == ("one", "two")
        return xs

    @pipeline
    def chain(x: int) -> int:
        return first(second(x))

    chain.run(1, given={"second": 5})
    assert built == ["one"]
    assert chain(1) == chain(1) == 1
    assert built == ["one", "two"]


# ---- failures -------------------------------------------------------------------------------


@pipeline
def failing(x: int) -> int:
    return add(double(x), fail(double(x)))


def through(other: Step[..., int]) -> Pipeline[..., int]:
    """A pipeline that calls another step where `failing` calls `fail`."""

    @pipeline
    def passing(x: int) -> int:
        return add(double(x), other(double(x)))

    return passing


def test_a_failure_carries_the_values_so_far() -> None:
    with pytest.raises(StepError) as caught:
        failing(3)
    error = caught.value
    assert (error.step, error.pipeline) == ("fail", "failing")
    assert error.run["double"].value == 6
    assert [node.status for node in error.run.nodes] == ["done", "done", "failed", "not run"]
    assert error.run["fail"].error is error.__cause__
    assert "ValueError: cannot take 6" in str(error)


def test_the_traceback_of_the_cause_starts_in_the_users_step() -> None:
    @step
    async def fail_later(x: int) -> int:
        raise ValueError(x)

    @batched_step
    def fail_together(xs: list[int]) -> list[int]:
        raise ValueError(xs)

    for bad in (fail, fail_later, fail_together):
        with pytest.raises(StepError) as caught:
            through(bad)(3)
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        frames = traceback.extract_tb(cause.__traceback__)
        assert [frame.name for frame in frames] == [bad.fn.__name__]


def test_asking_a_failed_run_again_and_again_does_not_lengthen_the_traceback() -> None:
    with pytest.raises(StepError) as caught:
        failing(3)
    run, depths = caught.value.run, []
    for _ in range(3):
        with pytest.raises(StepError) as again:
            _ = run.value
        depths.append(len(traceback.extract_tb(again.value.__traceback__)))
    assert depths == [depths[0]] * 3


def test_an_input_error_keeps_its_status_and_its_words() -> None:
    @step
    def check(x: int) -> int:
        raise InputError("too small", expected="at least 5", got=str(x), fix="send more")

    with pytest.raises(StepError) as caught:
        through(check)(1)
    assert caught.value.status == 422
    for words in ("too small", "at least 5", "got 2", "send more"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "error", [Exception("e"), SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()]
)
@pytest.mark.parametrize("kind", ["plain", "async", "batched"])
def test_whatever_a_step_raises_is_its_failure(error: BaseException, kind: str) -> None:
    def plain(x: int) -> int:
        raise error

    async def awaited(x: int) -> int:
        raise error

    def together(xs: list[int]) -> list[int]:
        raise error

    bad = {"plain": step(plain), "async": step(awaited), "batched": batched_step(together)}[kind]
    with pytest.raises(StepError) as caught:
        through(bad)(1)
    cause = caught.value.__cause__
    # Python itself turns a StopIteration that leaves a coroutine into a RuntimeError.
    assert cause is error or isinstance(cause, RuntimeError)
    assert mixed(3) == 65  # what runs async steps still lives


def test_a_cancelled_error_that_an_async_step_raises_is_its_failure() -> None:
    @step
    async def gives_up(x: int) -> int:
        raise asyncio.CancelledError

    with pytest.raises(StepError, match="gives_up"):
        through(gives_up)(1)


def test_errors_of_mlkit_that_a_step_raises_name_the_step() -> None:
    @step
    def stop(x: int) -> int:
        raise Cancelled("the other side hung up")

    with pytest.raises(StepError, match="stop") as caught:
        through(stop)(1)
    assert caught.value.status == Cancelled.status


def test_an_exception_that_cannot_be_shown_is_still_a_failure() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @step
    def breaks(x: int) -> int:
        raise Broken

    with pytest.raises(StepError, match="Broken"):
        through(breaks)(1)


def test_exceptions_that_resist_are_failures_and_the_worker_goes_on() -> None:
    class Resisting(Exception):
        def with_traceback(self, tb: object) -> "Resisting":
            raise RuntimeError("not mine")

    class Halfway(InputError):
        def __init__(self, x: int) -> None:  # forgets what is above it
            self.x = x

    def resist(x: int) -> int:
        raise Resisting

    async def resist_later(x: int) -> int:
        raise Resisting

    def resist_together(xs: list[int]) -> list[int]:
        raise Resisting

    def halfway(x: int) -> int:
        raise Halfway(x)

    for bad in (step(resist), step(resist_later), batched_step(resist_together), step(halfway)):
        results = through(bad).map([1, 2, 3], progress=False, on_error="keep", workers=1)
        assert [(type(error), error.step) for error in results] == [(StepError, bad.name)] * 3


def test_an_interrupt_gives_up_a_run_without_waiting_for_its_step(gate) -> None:
    @step
    def interrupt(x: int) -> int:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        gate.pass_through()
        return x

    with pytest.raises(KeyboardInterrupt):
        through(interrupt)(1)


def test_a_tuple_that_is_too_short_fails_its_step() -> None:
    @step
    def pair(x: int) -> tuple[int, int]:
        return (x,)  # type: ignore[return-value]

    @pipeline
    def second(x: int) -> int:
        _, b = pair(x)
        return double(b)

    with pytest.raises(StepError, match="does not match its annotation") as caught:
        second(1)
    assert caught.value.step == "pair"


def test_a_selection_in_what_is_returned_that_does_not_work_out_names_the_pipeline() -> None:
    @step
    def pair(x: int) -> tuple[int, int]:
        return (x,)  # type: ignore[return-value]

    @pipeline
    def second(x: int) -> int:
        _, b = pair(x)
        return b

    with pytest.raises(MlkitError, match="pipeline 'second'"):
        second(1)


# ---- arguments ------------------------------------------------------------------------------


def test_an_argument_that_does_not_validate_is_an_input_error_that_names_it() -> None:
    class Box(BaseModel):
        width: int

    @step
    def width(box: Box) -> int:
        return box.width

    @pipeline
    def measure(box: Box) -> int:
        return width(box)

    assert measure({"width": 3}) == 3
    with pytest.raises(InputError, match="argument 'box' of pipeline 'measure'"):
        measure({"width": "wide"})


def test_a_type_that_cannot_travel_still_runs_here() -> None:
    class Odd:
        pass

    @step
    def name(odd: Odd) -> str:
        return type(odd).__name__

    @pipeline
    def named(odd: Odd) -> str:
        return name(odd)

    assert named(Odd()) == "Odd"


# ---- context --------------------------------------------------------------------------------

wanted: ContextVar[str] = ContextVar("wanted", default="nothing")


@step
def see(x: int) -> str:
    return f"{wanted.get()} in {running_step.get()}"


@step
async def see_later(x: str) -> str:
    return f"{x}, {wanted.get()} in {running_step.get()}"


@batched_step
def see_together(xs: list[str]) -> list[str]:
    return [f"{x}, {wanted.get()} in {running_step.get()}" for x in xs]


@pipeline
def seen(x: int) -> str:
    return see_together(see_later(see(x)))


def test_steps_see_the_callers_context_and_where_they_are() -> None:
    token = wanted.set("tea")
    try:
        assert seen(1) == "tea in see, tea in see_later, tea in see_together"
    finally:
        wanted.reset(token)
    assert seen(1) == "nothing in see, nothing in see_later, nothing in see_together"


def test_what_a_step_sets_in_its_context_stays_in_it() -> None:
    @batched_step
    def spill_together(xs: list[int]) -> list[int]:
        wanted.set("spilt")
        return xs

    @step
    def spill(x: int) -> int:
        wanted.set("spilt")
        return x

    @pipeline
    def spilt(x: int) -> str:
        return see_together(see_later(see(spill_together(spill(x)))))

    assert spilt(1) == seen(1)
    assert running_step.get() is None


def test_a_step_called_inside_a_step_is_refused_with_fn_named() -> None:
    @step
    def nests(x: int) -> int:
        return double(x)

    @step
    async def nests_later(x: int) -> int:
        return double(x)

    @batched_step
    def nests_together(xs: list[int]) -> list[int]:
        return [double(x) for x in xs]

    for nesting in (nests, nests_later, nests_together):
        with pytest.raises(StepError, match=r"double\.fn") as caught:
            through(nesting)(1)
        assert isinstance(caught.value.__cause__, DefinitionError)


def test_a_pipeline_called_inside_a_step_is_refused() -> None:
    @step
    def nests(x: int) -> int:
        return mixed(x)

    with pytest.raises(StepError, match="inside step 'nests'"):
        through(nests)(1)


def unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that was not written for async functions."""

    @functools.wraps(fn)
    def call(x: int) -> Any:
        return fn(x)

    return call


@pytest.mark.parametrize("annotation", [object, int])
def test_a_step_that_returns_a_coroutine_says_what_to_do(annotation: Any) -> None:
    async def increment(x: int) -> Any:
        return x + 1

    increment.__annotations__["return"] = annotation
    wrapped = step(unwrapped(increment))

    @pipeline
    def pipe(x: int) -> object:
        return wrapped(x)

    for call in (wrapped, pipe):
        with pytest.raises(MlkitError, match="it returns a coroutine") as raised:
            call(1)
        assert "wrapper of its decorator" in str(raised.value)
