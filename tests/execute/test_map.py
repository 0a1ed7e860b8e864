"""Many inputs: any shape in, order kept, failures kept or raised, interrupted with what is done."""

import asyncio
import gc
import itertools
import threading
import traceback
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from mlkit.define import batched_step, step
from mlkit.errors import Cancelled, InputError, StepError
from mlkit.pipelines import pipeline


class Price(BaseModel):
    cents: int
    shown: str


@step
async def later(x: int) -> int:
    return x


@batched_step(max_batch_size=4)
def tenfold(xs: list[int]) -> list[int]:
    if any(x < 0 for x in xs):
        raise ValueError("negative")
    return [10 * x for x in xs]


@step
def show(cents: int, unit: str) -> Price:
    return Price(cents=cents, shown=f"{cents} {unit}")


@pipeline
def price(x: int, unit: str = "c") -> Price:
    return show(tenfold(later(x)), unit)


@pipeline
def number(x: int) -> int:
    return tenfold(later(x))


def cents(results: list[Price]) -> list[int]:
    return [result.cents for result in results]


# ---- shapes ---------------------------------------------------------------------------------


def test_bare_values_in_results_out_in_order() -> None:
    assert cents(price.map(range(200), progress=False)) == list(range(0, 2000, 10))


def test_dicts_in_with_defaults_left_out() -> None:
    inputs = [{"x": 1}, {"x": 2, "unit": "p"}]
    assert [r.shown for r in price.map(inputs, progress=False)] == ["10 c", "20 p"]


def test_arrays_and_tuples_are_inputs_too() -> None:
    assert number.map((1, 2), progress=False) == [10, 20]
    assert number.map(np.arange(3), progress=False) == [0, 10, 20]


def test_a_frame_in_a_frame_out_with_its_index() -> None:
    frame = pd.DataFrame({"x": [3, 1], "unit": ["c", "p"], "spare": [0, 0]}, index=["b", "a"])
    result = price.map(frame, progress=False)
    assert list(result.columns) == ["cents", "shown"]
    assert result.loc["b"].tolist() == [30, "30 c"]
    assert result.loc["a"].tolist() == [10, "10 p"]


def test_results_without_fields_are_a_column_named_like_the_pipeline() -> None:
    result = number.map(pd.DataFrame({"x": [1, 2]}), progress=False)
    assert result.to_dict("list") == {"number": [10, 20]}


@pytest.mark.parametrize("hole", [None, float("nan"), pd.NA, pd.NaT])
def test_a_hole_in_an_optional_column_means_not_given(hole: Any) -> None:
    frame = pd.DataFrame({"x": [1, 2], "unit": pd.Series(["p", hole], dtype=object)})
    assert price.map(frame, progress=False)["shown"].tolist() == ["10 p", "20 c"]


def test_a_list_in_an_optional_column_is_a_value() -> None:
    @step
    def count(x: int, parts: list[int]) -> int:
        return x + len(parts)

    @pipeline
    def counted(x: int, parts: list[int] = []) -> int:  # noqa: B006
        return count(x, parts)

    frame = pd.DataFrame({"x": [1, 2], "parts": [[1, 1], []]})
    assert counted.map(frame, progress=False)["counted"].tolist() == [3, 2]


@pytest.mark.parametrize("empty", [[], (), iter([]), np.array([])])
def test_no_inputs_give_no_results(empty: Any) -> None:
    assert price.map(empty, progress=False) == []


def test_an_empty_frame_gives_an_empty_frame() -> None:
    result = price.map(pd.DataFrame({"x": []}), progress=False)
    assert isinstance(result, pd.DataFrame)
    assert len(result) == 0


@pytest.mark.parametrize("wrong", ["text", b"bytes", {"x": 1}])
def test_a_single_input_is_refused_with_the_way_out(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"wrap a single input in a list"):
        price.map(wrong, progress=False)


def test_a_misfit_in_a_list_is_found_before_anything_runs() -> None:
    began = []

    @step
    def begin(x: int, y: int) -> int:
        began.append(x)
        return x

    @pipeline
    def two(x: int, y: int) -> int:
        return begin(x, y)

    with pytest.raises(InputError, match="input 2"):
        two.map([{"x": 1, "y": 1}, {"x": 2, "y": 2}, {"x": 3}], progress=False)
    assert began == []


def test_a_frame_without_a_needed_column_is_refused() -> None:
    with pytest.raises(InputError, match="no column x"):
        price.map(pd.DataFrame({"unit": ["c"]}), progress=False)


@pytest.mark.parametrize("options", [{"on_error": "ignore"}, {"workers": 0}, {"workers": -1}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        price.map([1], progress=False, **options)


def test_paths_are_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"12345")

    @step
    def size(data: bytes) -> int:
        return len(data)

    @pipeline
    def sized(data: bytes) -> int:
        return size(data)

    results = sized.map(
        [tmp_path / "one", b"12", tmp_path / "none"], progress=False, on_error="keep"
    )
    assert results[:2] == [5, 2]
    assert isinstance(results[2], InputError)
    assert "argument 'data'" in str(results[2])


# ---- failures -------------------------------------------------------------------------------


def test_the_first_failure_is_raised_and_says_which_input_it_was() -> None:
    with pytest.raises(StepError, match="negative") as caught:
        number.map([1, 2, -3, 4], progress=False)
    assert caught.value.run.arguments == {"x": -3}
    assert caught.value.run["later"].value == -3
    assert any("input 2" in note for note in caught.value.__notes__)


def test_after_a_failure_no_more_are_begun(gate) -> None:
    began = []

    @step
    def begin(x: int) -> int:
        began.append(x)
        raise ValueError(x)

    @pipeline
    def fails(x: int) -> int:
        return begin(x)

    with pytest.raises(StepError):
        fails.map(itertools.count(), progress=False, workers=1)
    assert len(began) < 20


def test_kept_failures_stand_in_their_places() -> None:
    results = number.map([1, -2, 3], progress=False, on_error="keep")
    assert results[0] == 10
    assert results[2] == 30
    assert isinstance(results[1], StepError)
    assert results[1].step == "tenfold"


def test_kept_failures_of_a_frame_are_an_error_column() -> None:
    frame = pd.DataFrame({"x": [-1, 2]}, index=["a", "b"])
    result = price.map(frame, progress=False, on_error="keep")
    assert result["cents"].isna().tolist() == [True, False]
    assert "negative" in result.loc["a", "error"]
    assert pd.isna(result.loc["b", "error"])


def test_a_frame_of_which_everything_failed_still_has_its_rows() -> None:
    result = price.map(pd.DataFrame({"x": [-1, -2]}), progress=False, on_error="keep")
    assert len(result) == 2
    assert result["error"].str.contains("negative").all()


def test_an_argument_that_cannot_be_taken_is_kept_in_its_place() -> None:
    @step
    def unit(of: Price) -> str:
        return of.shown

    @pipeline
    def units(of: Price) -> str:
        return unit(of)

    inputs = [{"of": {"cents": "many", "shown": "m"}}, {"of": {"cents": 1, "shown": "1 c"}}]
    results = units.map(inputs, progress=False, on_error="keep")
    assert isinstance(results[0], InputError)
    assert results[1] == "1 c"
    with pytest.raises(InputError, match="argument 'of'"):
        units.map(inputs, progress=False)


def test_kept_failures_keep_a_traceback_but_no_values(soon) -> None:
    class Picture:
        pass

    alive: list[weakref.ref[Picture]] = []

    @step
    def load(x: int) -> Picture:
        picture = Picture()
        alive.append(weakref.ref(picture))
        return picture

    @batched_step(max_batch_size=4)
    def look(pictures: list[Picture]) -> list[int]:
        local = pictures[0]
        raise ValueError(f"no {type(local).__name__}")

    @step
    def glance(picture: Picture) -> int:
        raise ValueError(type(picture))

    @step
    async def stare(picture: Picture) -> int:
        local = picture
        raise ValueError(type(local))

    for bad in (look, glance, stare):

        @pipeline
        def looked(x: int) -> int:
            return bad(load(x))  # noqa: B023

        results = looked.map(range(20), progress=False, on_error="keep")
        gc.collect()
        assert soon(lambda: not any(ref() is not None for ref in alive))
        frames = traceback.extract_tb(results[3].__cause__.__traceback__)
        assert [frame.name for frame in frames] == [bad.name]
        assert results[3].run is None


def test_forgetting_values_ends_no_coroutine_that_is_still_waiting() -> None:
    goes_on, answered = asyncio.Event(), []

    async def client() -> None:
        """As clients do: a reader hands its exception to whoever asked, and reads on."""
        try:
            raise ConnectionError("lost")
        except ConnectionError as error:
            asked.set_exception(error)
        await goes_on.wait()
        answered.append("still there")

    asked: asyncio.Future[int]

    @step
    async def ask(x: int) -> int:
        nonlocal asked
        if x == 1:
            goes_on.set()
            await reader[0]
            return x
        asked = asyncio.get_running_loop().create_future()
        reader.append(asyncio.create_task(client()))
        return await asked

    reader: list[asyncio.Task[None]] = []

    @pipeline
    def asking(x: int) -> int:
        return ask(x)

    (error,) = asking.map([0], progress=False, on_error="keep")
    assert isinstance(error.__cause__, ConnectionError)
    assert asking.map([1], progress=False) == [1]
    assert answered == ["still there"]


# ---- generators and bounds ------------------------------------------------------------------


def test_a_generator_is_read_a_bounded_number_of_inputs_ahead() -> None:
    ended: list[int] = []
    furthest = 0

    @step
    def count(x: int) -> int:
        ended.append(x)
        return x

    @pipeline
    def counted(x: int) -> int:
        return count(x)

    def inputs() -> Iterator[int]:
        nonlocal furthest
        for x in range(500):
            furthest = max(furthest, x - len(ended))
            yield x

    assert counted.map(inputs(), progress=False, workers=2) == list(range(500))
    assert furthest <= 2 * 2 + 2


def test_the_number_of_requests_in_flight_is_bounded() -> None:
    lock, here, most = threading.Lock(), 0, 0

    @step
    async def arrive(x: int) -> int:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        return x

    @step
    def leave(x: int) -> int:
        nonlocal here
        with lock:
            here -= 1
        return x

    @pipeline
    def crossing(x: int) -> int:
        return leave(tenfold(arrive(x)))

    crossing.map(range(1000), progress=False, workers=2)
    assert most <= 2 * 2 * tenfold.max_batch_size


def test_a_misfit_of_a_generator_is_an_error_in_its_place() -> None:
    @pipeline
    def two(x: int, unit: str) -> Price:
        return show(tenfold(x), unit)

    inputs = [{"x": 1, "unit": "c"}, {"x": 2}, {"x": 3, "unit": "c"}]
    results = two.map(iter(inputs), progress=False, on_error="keep")
    assert cents([results[0], results[2]]) == [10, 30]
    assert isinstance(results[1], InputError)
    assert "input 1" in str(results[1])
    with pytest.raises(InputError, match="input 1"):
        two.map(iter(inputs), progress=False)


def test_what_a_generator_raises_is_passed_on() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        number.map(broken(), progress=False)


# ---- interrupts -----------------------------------------------------------------------------


def interrupting(after: int, till_done: threading.Event) -> Iterator[int]:
    """Inputs, then an interrupt once those before are done: as from the keyboard, but on time."""
    yield from range(after)
    assert till_done.wait(20)
    raise KeyboardInterrupt


def counted_until(count: int):
    done = threading.Event()
    seen = itertools.count(1)

    @step
    def mark(x: int) -> int:
        if next(seen) == count:
            done.set()
        return x

    @pipeline
    def marked(x: int) -> int:
        return mark(x)

    return marked, done


def test_an_interrupt_returns_what_is_done(capsys) -> None:
    marked, done = counted_until(3)
    results = marked.map(interrupting(3, done), progress=False, workers=1)
    assert results[:2] == [0, 1]  # the last may not have been taken up yet
    assert len(results) == 3
    printed = capsys.readouterr().out
    assert printed in ("interrupted: 2 done\n", "interrupted: 3 done\n")


class Sized:
    """A collection that is no sequence, as data sets are."""

    def __init__(self, items: Iterator[int], size: int) -> None:
        self.items, self.size = items, size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return self.items


def test_what_was_not_done_is_cancelled_in_its_place(capsys) -> None:
    marked, done = counted_until(3)
    results = marked.map(Sized(interrupting(3, done), 10), progress=False, workers=1)
    assert len(results) == 10
    assert results[:2] == [0, 1]
    assert all(isinstance(result, Cancelled) for result in results[3:])
    assert "of 10 done" in capsys.readouterr().out


def test_an_interrupt_does_not_wait_for_a_step_that_runs(gate, capsys) -> None:
    @step
    def hold(x: int) -> int:
        if x:
            gate.pass_through()
        return x

    @pipeline
    def holding(x: int) -> int:
        return hold(x)

    def inputs() -> Iterator[int]:
        yield 1
        gate.wait_for()
        raise KeyboardInterrupt

    results = holding.map(inputs(), progress=False, workers=1)
    assert [type(result) for result in results] == [Cancelled]
    assert capsys.readouterr().out == "interrupted: 0 done\n"


def test_an_interrupted_frame_keeps_its_rows() -> None:
    marked, _ = counted_until(1)
    frame = pd.DataFrame({"x": range(50)})

    def interrupt(self: object, values: object) -> bool:
        if len(self.results) == 20:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return submit(self, values)

    from mlkit.execute import offline

    submit = offline._Stream.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline._Stream, "submit", interrupt)
        result = marked.map(frame, progress=False)
    assert len(result) == 50
    assert result["error"].iloc[20:].str.contains("interrupted").all()


# ---- progress -------------------------------------------------------------------------------


def test_without_progress_nothing_is_printed(capsys) -> None:
    number.map(range(10), progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_counts_what_is_done(capsys) -> None:
    number.map(range(10), progress=True)
    shown = capsys.readouterr().err
    assert "number: 100%" in shown
    assert "10/10" in shown


# ---- memory ---------------------------------------------------------------------------------


def test_memory_stays_flat_over_many_maps() -> None:
    @pipeline
    def chain(x: int) -> int:
        return tenfold(tenfold(x))

    def work() -> None:
        for _ in range(8):
            chain.map(range(100), progress=False)
            number.map([-1, 1, -1], progress=False, on_error="keep")
        gc.collect()

    work()
    tracemalloc.start()
    try:
        work()
        traced = [tracemalloc.get_traced_memory()[0]]
        for _ in range(4):
            work()
            traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A leak grows in every round, by at least a reference (8 bytes) for each of 824 items. What
    # other threads and caches allocate once does not.
    assert min(later - earlier for earlier, later in itertools.pairwise(traced)) < 6_000
