"""The executor as a server uses it: cancelling, deadlines, closing, callbacks, loops, memory."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from time import perf_counter

import pytest

from mlkit.define import batched_step, resource, step
from mlkit.errors import Cancelled, DeadlineExceeded, InputError, MlkitError, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.pipelines import pipeline


@step
def same(x: int) -> int:
    return x


@pipeline
def plain(x: int) -> int:
    return same(x)


def held(gate, calls: list[int]):
    """A pipeline whose only step waits at a gate."""

    @step
    def hold(x: int) -> int:
        calls.append(x)
        gate.pass_through()
        return x

    @pipeline
    def holding(x: int) -> int:
        return hold(x)

    return holding


def held_batches(gate, calls: list[list[int]], size: int = 4):
    @batched_step(max_batch_size=size)
    def many(xs: list[int]) -> list[int]:
        calls.append(list(xs))
        gate.pass_through()
        return xs

    @pipeline
    def batching(x: int) -> int:
        return many(x)

    return batching


# ---- cancelling -----------------------------------------------------------------------------


def test_a_queued_request_that_is_cancelled_never_runs(requests, gate) -> None:
    calls: list[int] = []
    sent = requests(held(gate, calls), workers=1)
    sent.submit(0)
    gate.wait_for()
    victim, _ = sent.submit(1, 2)
    victim.cancel()
    assert sent.finished == [victim]  # at once, while the worker is busy
    assert sent.executor.queued() == {"hold": 1}
    gate.open()
    assert sent.outcomes() == [0, Cancelled, 2]
    assert calls == [0, 2]


def test_a_hundred_cancelled_while_they_wait_for_their_batch_and_it_serves_on(
    requests, gate
) -> None:
    calls: list[list[int]] = []
    sent = requests(held_batches(gate, calls, size=100), workers=1)
    sent.submit(0)
    gate.wait_for()
    crowd = sent.submit(*range(1, 101))
    for execution in crowd:
        execution.cancel()
    sent.submit(101, 102)
    gate.open()
    assert sent.outcomes() == [0, *[Cancelled] * 100, 101, 102]
    assert calls == [[0], [101, 102]]


def test_a_hundred_cancelled_while_their_batch_runs_and_the_rest_get_theirs(
    requests, gate, soon
) -> None:
    first, began = threading.Event(), threading.Event()

    @batched_step(max_batch_size=120)
    def many(xs: list[int]) -> list[int]:
        if len(xs) == 1:
            assert first.wait(20)
        else:
            began.set()
            gate.pass_through()
        return xs

    @pipeline
    def flow(x: int) -> int:
        return same(many(x))

    sent = requests(flow, workers=1)
    sent.submit(0)
    assert soon(lambda: not sent.executor.queued()["many"])
    crowd = sent.submit(*range(1, 121))
    first.set()
    assert began.wait(20)
    for execution in crowd[:100]:
        execution.cancel()
    gate.open()
    sent.submit(121)
    assert sent.outcomes() == [0, *[Cancelled] * 100, *range(101, 122)]


def test_cancelling_twice_or_afterwards_has_no_effect(requests, gate) -> None:
    sent = requests(held(gate, []), workers=1)
    first, second = sent.submit(0, 1)
    second.cancel()
    second.cancel()
    gate.open()
    assert sent.outcomes() == [0, Cancelled]
    first.cancel()
    assert sent.outcomes() == [0, Cancelled]
    assert len(sent.finished) == 2


def test_cancelling_a_request_cancels_its_async_steps(requests) -> None:
    began, ended = threading.Event(), threading.Event()

    @step
    async def wait(x: int) -> int:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return x

    @pipeline
    def waiting(x: int) -> int:
        return same(wait(x))

    sent = requests(waiting)
    victim = sent.submit(1)[0]
    assert began.wait(20)
    victim.cancel()
    assert sent.outcomes() == [Cancelled]
    assert ended.wait(20)


def test_a_failure_cancels_async_steps_beside_it(requests) -> None:
    began, ended = threading.Event(), threading.Event()

    @step
    async def wait(x: int) -> int:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return x

    @step
    def fail(x: int) -> int:
        assert began.wait(20)
        raise ValueError

    @step
    def add(a: int, b: int) -> int:
        return a + b

    @pipeline
    def beside(x: int) -> int:
        return add(wait(x), fail(x))

    sent = requests(beside)
    sent.submit(1)
    assert sent.outcomes() == [StepError]
    assert ended.wait(20)


def test_cancelled_requests_do_not_pile_up_behind_a_busy_worker(requests, gate) -> None:
    class Upload:
        pass

    sent = requests(held(gate, []), workers=1)
    sent.submit(0)
    gate.wait_for()
    uploads = []
    for _ in range(1000):
        upload = Upload()
        uploads.append(weakref.ref(upload))
        sent.executor.submit({"x": upload}, lambda execution: None).cancel()
    del upload
    gc.collect()
    assert sum(ref() is not None for ref in uploads) < 200
    gate.open()


# ---- deadlines ------------------------------------------------------------------------------


def test_a_request_past_its_deadline_is_not_begun(requests, gate) -> None:
    calls: list[int] = []
    sent = requests(held(gate, calls), workers=1)
    sent.submit(0)
    gate.wait_for()
    sent.submit(1, deadline=perf_counter() - 1)
    sent.submit(2, deadline=perf_counter() + 60)
    gate.open()
    assert sent.outcomes() == [0, DeadlineExceeded, 2]
    assert calls == [0, 2]
    assert "step 'hold'" in str(sent.wait()[1].error)


def test_an_async_step_is_stopped_at_the_deadline(requests, monkeypatch) -> None:
    ended = []

    @step
    async def wait(x: int) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(x)
        return x

    @pipeline
    def waiting(x: int) -> int:
        return wait(x)

    # However slow the machine is, ten milliseconds are left when the step begins.
    monkeypatch.setattr("mlkit.execute.execution.perf_counter", lambda: 100.0)
    sent = requests(waiting)
    sent.submit(1, deadline=100.01)
    assert sent.outcomes() == [DeadlineExceeded]
    assert ended == [1]


def test_an_async_step_past_its_deadline_is_not_begun(requests) -> None:
    began = []

    @step
    async def begin(x: int) -> int:
        began.append(x)
        return x

    @pipeline
    def late(x: int) -> int:
        return begin(x)

    sent = requests(late)
    sent.submit(1, deadline=perf_counter() - 1)
    assert sent.outcomes() == [DeadlineExceeded]
    assert began == []


@pytest.mark.parametrize("ends", ["late", "cancelled"])
def test_a_stream_of_a_request_that_has_ended_is_not_begun(requests, ends) -> None:
    began, submitted = [], threading.Event()

    @step
    def begin(x: int) -> Iterator[int]:
        began.append(x)
        yield x

    @pipeline
    def ended(x: int) -> Iterator[int]:
        return begin(same(x))

    def end(*_: object) -> None:
        assert submitted.wait(20)
        if ends == "late":
            execution.deadline = perf_counter() - 1
        else:
            execution.cancel()

    sent = requests(ended)
    (execution,) = sent.submit(1, on_node=end)
    submitted.set()
    assert sent.outcomes() == [DeadlineExceeded if ends == "late" else Cancelled]
    sent.executor.close()
    assert began == []


def test_a_timeout_that_an_async_step_raises_is_its_own_failure(requests) -> None:
    @step
    async def impatient(x: int) -> int:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
        return x

    @pipeline
    def own(x: int) -> int:
        return impatient(x)

    sent = requests(own)
    sent.submit(1, deadline=perf_counter() + 60)
    assert sent.outcomes() == [StepError]
    assert isinstance(sent.wait()[0].error.__cause__, TimeoutError)


@pytest.mark.parametrize("batched", [False, True])
def test_a_request_that_becomes_late_while_it_waits_for_its_turn_does_not_reach_the_step(
    requests, gate, monkeypatch, batched
) -> None:
    """With two workers and a resource for one call at a time, the second call waits in a worker."""
    clock, seen = [0.0], []
    monkeypatch.setattr("mlkit.execute.execution.perf_counter", lambda: clock[0])

    def work(xs: list[int]) -> list[int]:
        seen.extend(xs)
        if xs == [0]:
            gate.pass_through()
        return xs

    if batched:

        @batched_step(max_batch_size=2)
        def use(xs: list[int], *, model: object = resource(object, exclusive=True)) -> list[int]:
            return work(xs)

    else:

        @step
        def use(xs: int, *, model: object = resource(object, exclusive=True)) -> int:
            return work([xs])[0]

    @pipeline
    def used(x: int) -> int:
        return use(x)

    sent = requests(used, workers=2)
    sent.submit(0)
    gate.wait_for()
    (turn,) = sent.executor.program.tasks[0].turns
    sent.submit(1, deadline=5.0)
    while not turn._waiting:
        time.sleep(0.001)
    clock[0] = 6.0
    gate.open()
    first, late = sent.wait()
    assert first.output == 0
    assert isinstance(late.error.__cause__, DeadlineExceeded)
    assert late.error.status == 504
    assert seen == [0]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_whose_request_ends_while_it_waits_for_its_turn_is_not_begun(
    requests, monkeypatch, soon, is_async
) -> None:
    clock, began = [0.0], []
    monkeypatch.setattr("mlkit.execute.execution.perf_counter", lambda: clock[0])
    if is_async:

        @step
        async def use(
            x: int, *, model: object = resource(object, exclusive=True)
        ) -> AsyncIterator[int]:
            began.append(x)
            yield x

    else:

        @step
        def use(x: int, *, model: object = resource(object, exclusive=True)) -> Iterator[int]:
            began.append(x)
            yield x

    @pipeline
    def used(x: int) -> Iterator[int]:
        return use(x)

    sent = requests(used)
    (turn,) = sent.executor.program.tasks[0].turns
    turn.take()
    (late,) = sent.submit(0, deadline=5.0)
    (gone,) = sent.submit(1)
    assert soon(lambda: len(turn._waiting) == 2)
    clock[0] = 6.0
    gone.cancel()
    turn.pass_on()
    sent.wait()
    assert isinstance(late.error.__cause__, DeadlineExceeded)
    assert isinstance(gone.error, Cancelled)
    assert soon(lambda: not turn._taken)
    assert began == []


def test_run_answers_at_the_deadline_though_a_step_cannot_be_stopped(requests, gate) -> None:
    executor = requests(held(gate, []), workers=1).executor

    async def ask() -> object:
        return (await executor.run({"x": 1}, deadline=perf_counter() + 0.02)).error

    assert isinstance(asyncio.run(ask()), DeadlineExceeded)


# ---- workers that do not come back ----------------------------------------------------------


def test_a_call_that_outlives_its_request_is_counted_until_it_returns(requests, gate, soon) -> None:
    sent = requests(held(gate, []), workers=2)
    (late, _) = sent.submit(1, 2)
    gate.wait_for(2)
    assert sent.executor.abandoned() == 0
    late.cancel()
    assert sent.executor.abandoned() == 1
    assert sent.executor.abandoned(after_s=60) == 0  # it came just now
    gate.open()
    assert soon(lambda: sent.executor.abandoned() == 0)


def test_a_batch_is_abandoned_when_nobody_waits_for_any_of_it(requests, gate, soon) -> None:
    first = threading.Event()

    @batched_step(max_batch_size=4)
    def many(xs: list[int]) -> list[int]:
        if len(xs) == 1:
            assert first.wait(20)
        else:
            gate.pass_through()
        return xs

    @pipeline
    def batching(x: int) -> int:
        return many(x)

    sent = requests(batching, workers=1)
    sent.submit(0)
    assert soon(lambda: not sent.executor.queued()["many"])
    one, other = sent.submit(1, 2)
    first.set()
    gate.wait_for()
    one.cancel()
    assert sent.executor.abandoned() == 0
    other.cancel()
    assert sent.executor.abandoned() == 1


# ---- callbacks ------------------------------------------------------------------------------


def test_a_callback_may_submit_more(requests) -> None:
    executor = requests(plain, workers=1).executor
    outputs, last = [], threading.Event()

    def again(execution) -> None:
        outputs.append(execution.output)
        if execution.output < 500:
            executor.submit({"x": execution.output + 1}, again)
        else:
            last.set()

    executor.submit({"x": 1}, again)
    assert last.wait(20)
    assert outputs == list(range(1, 501))


@pytest.mark.parametrize("error", [ValueError("in a callback"), SystemExit(1)])
def test_a_callback_that_raises_is_logged_and_harms_nobody(requests, caplog, error) -> None:
    @step
    async def later(x: int) -> int:
        return x

    @pipeline
    def both(x: int) -> int:
        return later(same(x))

    def bad(execution) -> None:
        raise error

    for served in (plain, both):
        sent = requests(served, workers=1)
        sent.executor.submit({"x": 1}, bad)
        sent.executor.submit({"x": 1}, bad).cancel()
        sent.submit(2)
        assert sent.outcomes() == [2]
    assert "plain" in caplog.text
    assert type(error).__name__ in caplog.text


def test_a_callback_is_not_inside_a_step(requests) -> None:
    @step
    async def later(x: int) -> int:
        return x

    @pipeline
    def ends_async(x: int) -> int:
        return later(x)

    got, done = [], threading.Event()

    def call_a_step(execution) -> None:
        try:
            got.append(same(execution.output))
        finally:
            done.set()

    for served in (plain, ends_async):
        requests(served).executor.submit({"x": 3}, call_a_step)
        assert done.wait(20)
        done.clear()
    assert got == [3, 3]


# ---- closing --------------------------------------------------------------------------------


def test_closing_gives_up_what_is_in_flight(requests, gate) -> None:
    sent = requests(held(gate, []), workers=1)
    sent.submit(0, 1)
    gate.wait_for()
    sent.executor.close(wait=False)
    assert sent.outcomes() == [Cancelled, Cancelled]
    assert sent.executor.in_flight == 0
    gate.open()


def test_closing_waits_for_the_step_that_runs() -> None:
    began, returned = threading.Event(), []

    @step
    def slow(x: int) -> int:
        began.set()
        time.sleep(0.05)
        returned.append(x)
        return x

    @pipeline
    def slowly(x: int) -> int:
        return slow(x)

    with Executor(compile_graph(slowly.graph), workers=1) as executor:
        executor.submit({"x": 1}, lambda execution: None)
        assert began.wait(20)
    assert returned == [1]


def test_nothing_can_be_submitted_after_closing(requests) -> None:
    executor = requests(plain).executor
    executor.close()
    executor.close()
    with pytest.raises(Cancelled, match="closed"):
        executor.submit({"x": 1}, lambda execution: None)
    with pytest.raises(Cancelled, match="closed"):
        asyncio.run(executor.run({"x": 1}))


def test_a_step_or_a_callback_may_close_the_executor(requests) -> None:
    holder = []

    @step
    def close(x: int) -> int:
        holder[0].close()
        return x

    @pipeline
    def closing(x: int) -> int:
        return close(x)

    sent = requests(closing)
    holder.append(sent.executor)
    sent.submit(1)
    assert sent.outcomes() == [Cancelled]

    other = requests(plain)
    ended = threading.Event()

    def on_done(execution) -> None:
        other.executor.close()
        ended.set()

    other.executor.submit({"x": 1}, on_done)
    assert ended.wait(20)


def test_an_async_step_that_ends_while_the_executor_closes_loses_nothing(requests, soon) -> None:
    may_end, ended = threading.Event(), []

    @step
    async def wait(x: int) -> int:
        while not may_end.is_set():
            await asyncio.sleep(0.001)
        return x

    @pipeline
    def waiting(x: int) -> int:
        return same(wait(x))

    executor = requests(waiting).executor

    def on_done(execution) -> None:
        ended.append(execution)
        may_end.set()  # the other's step ends while this one is being given up
        other = next(e for e in executions if e is not execution)
        assert len(ended) == 2 or soon(lambda: "wait" in other.results)

    executions = [executor.submit({"x": x}, on_done) for x in range(2)]
    assert soon(lambda: all(execution.async_tasks for execution in executions))
    executor.close()
    assert soon(lambda: len(ended) == 2)


def test_two_steps_may_close_the_executor_at_once(requests, soon) -> None:
    both = threading.Barrier(2, timeout=20)

    @step
    def close(x: int) -> int:
        both.wait()
        sent.executor.close()
        return x

    @pipeline
    def closing(x: int) -> int:
        return close(x)

    sent = requests(closing, workers=2)
    sent.submit(1, 2)
    assert sent.outcomes() == [Cancelled, Cancelled]
    assert soon(lambda: not any(thread.is_alive() for thread in sent.executor._threads))


def test_threads_end_with_the_executor() -> None:
    before = threading.active_count()
    for _ in range(5):
        with Executor(compile_graph(plain.graph), workers=4):
            pass
    assert threading.active_count() == before


def test_fewer_than_one_worker_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Executor(compile_graph(plain.graph), workers=0)


# ---- loops ----------------------------------------------------------------------------------


def test_many_requests_from_a_loop_with_some_given_up(requests) -> None:
    @step
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @batched_step
    def many(xs: list[int]) -> list[int]:
        return [10 * x for x in xs]

    @pipeline
    def flow(x: int) -> int:
        return many(later(same(x)))

    executor = requests(flow).executor

    async def ask() -> list[object]:
        asked = [asyncio.ensure_future(executor.run({"x": x})) for x in range(300)]
        await asyncio.sleep(0)
        for task in asked[::3]:
            task.cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    for x, got in enumerate(asyncio.run(ask())):
        if x % 3:
            assert got.output == 10 * x
        else:
            assert isinstance(got, asyncio.CancelledError) or got.output == 10 * x
    assert executor.in_flight == 0


def test_cancelling_run_gives_the_request_up(requests, gate) -> None:
    sent = requests(held(gate, []), workers=1)

    async def ask() -> None:
        task = asyncio.ensure_future(sent.executor.run({"x": 1}))
        await asyncio.to_thread(gate.wait_for)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sent.executor.in_flight == 0

    asyncio.run(ask())


def test_async_steps_run_on_the_loop_they_are_given(requests) -> None:
    @step
    async def where(x: int) -> int:
        return id(asyncio.get_running_loop())

    @pipeline
    def located(x: int) -> int:
        return same(where(same(x)))

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        executor = requests(located, loop=loop).executor
        assert (await executor.run({"x": 1})).output == id(loop)
        executor.close()

    asyncio.run(ask())


def test_a_loop_that_is_shut_down_ends_the_requests_that_wait_in_it(requests) -> None:
    began = threading.Event()

    @step
    async def wait(x: int) -> int:
        began.set()
        await asyncio.sleep(60)
        return x

    @pipeline
    def waiting(x: int) -> int:
        return wait(x)

    made = []

    async def begin() -> None:
        made.append(requests(waiting, loop=asyncio.get_running_loop()))
        made[0].submit(1)
        await asyncio.to_thread(began.wait, 20)
        made[0].submit(2)  # its task has not had a turn when the loop ends

    asyncio.run(begin())
    assert made[0].outcomes() == [Cancelled, Cancelled]


def test_a_closed_loop_fails_requests_instead_of_losing_them(requests) -> None:
    @step
    async def later(x: int) -> int:
        return x

    @pipeline
    def flow(x: int) -> int:
        return later(same(x))

    loop = asyncio.new_event_loop()
    sent = requests(flow, workers=1, loop=loop)
    loop.close()
    sent.submit(1, 2)
    assert sent.outcomes() == [MlkitError, MlkitError]
    assert "loop" in str(sent.wait()[0].error)


def test_an_answer_to_a_loop_that_is_gone_keeps_nobody_else_waiting(requests, gate) -> None:
    sent = requests(held(gate, []), workers=1)

    async def leave() -> None:
        # Not even cancelled: the loop ends with the request under way.
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        await sent.executor.run({"x": 0})

    loop = asyncio.new_event_loop()
    left = loop.create_task(leave())
    loop.run_forever()
    gate.wait_for()
    loop.close()
    gate.open()

    async def ask() -> int:
        return (await sent.executor.run({"x": 1})).output

    assert asyncio.run(asyncio.wait_for(ask(), 20)) == 1
    left.get_coro().close()  # type: ignore[union-attr]
    left._log_destroy_pending = False  # type: ignore[attr-defined]


# ---- memory ---------------------------------------------------------------------------------


class Payload:
    """Something that can be seen to be let go."""


def test_an_idle_executor_keeps_nothing_of_what_it_did(requests, soon) -> None:
    @batched_step
    def many(xs: list[object]) -> list[object]:
        return xs

    @step
    async def later(x: object) -> object:
        return x

    @pipeline
    def flow(x: object) -> object:
        return many(later(same(x)))

    executor = requests(flow, workers=1).executor
    payload, done = Payload(), threading.Event()
    seen = weakref.ref(payload)
    executor.submit({"x": payload}, lambda execution: done.set())
    assert done.wait(20)
    del payload
    assert soon(lambda: seen() is None)


@pytest.mark.parametrize(
    "kind", ["plain", "async", "batched", "exclusive", "exclusive async", "yields", "yields async"]
)
def test_a_failed_request_is_let_go_without_the_garbage_collector(requests, kind, soon) -> None:
    def fails(x: object) -> object:
        raise ValueError

    async def fails_later(x: object) -> object:
        raise ValueError

    def fail_together(x: list[object]) -> list[object]:
        raise ValueError

    def fails_in_turn(x: object, *, lock: object = resource(object, exclusive=True)) -> object:
        raise ValueError

    async def fails_in_turn_later(
        x: object, *, lock: object = resource(object, exclusive=True)
    ) -> object:
        raise ValueError

    def fails_amid(x: object) -> Iterator[int]:
        yield 1
        raise ValueError

    async def fails_amid_later(x: object) -> AsyncIterator[int]:
        yield 1
        raise ValueError

    kinds = {
        "plain": step(fails),
        "async": step(fails_later),
        "batched": batched_step(fail_together),
        "exclusive": step(fails_in_turn),
        "exclusive async": step(fails_in_turn_later),
        "yields": step(fails_amid),
        "yields async": step(fails_amid_later),
    }
    bad = kinds[kind]

    def call(x: object) -> object:
        return bad(x)

    call.__annotations__["return"] = Iterator[int] if "yields" in kind else object
    flow = pipeline(call)

    executor = requests(flow, workers=1).executor
    payload, done = Payload(), threading.Event()
    seen = weakref.ref(payload)
    gc.collect()
    gc.disable()
    try:
        executor.submit({"x": payload}, lambda execution: done.set())
        assert done.wait(20)
        del payload
        assert soon(lambda: seen() is None)
    finally:
        gc.enable()
