"""A load test in the background, and waiting for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from mlkit.errors import LoadError, entry_point
from mlkit.load.results import LoadResult
from mlkit.load.spec import check_positive

if TYPE_CHECKING:
    from mlkit.load.preparation import LoadPlan
    from mlkit.load.process import Progress, WorkerProcess, WorkerReport

__all__ = ["LoadRun", "follow", "watch"]

R = TypeVar("R", default=LoadResult)
REFRESH_S = 0.1


class LoadRun(Generic[R]):
    """A load test in the background, from ``load_test(..., wait=False)``.

    Args:
        plan: its plan.
        worker: the process that sends.
        finish: makes the result from the worker's report; called once.
    """

    def __init__(
        self, plan: LoadPlan, worker: WorkerProcess, finish: Callable[[LoadPlan, WorkerReport], R]
    ) -> None:
        self._plan, self._worker, self._finish = plan, worker, finish
        self._result: R | None = None
        self._rate: float | None = None

    @property
    def progress(self) -> Progress:
        """Current progress, at most some tenths of a second old."""
        return self._worker.progress

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._worker.ended.is_set()

    @property
    def duration_s(self) -> float:
        """Length of the measured part, in seconds."""
        return self._plan.settings.duration_s

    @property
    @entry_point
    def rate(self) -> float | None:
        """Target rate in requests per second, None for a closed loop.

        It can be set for `steered` arrivals.

        Raises:
            LoadError: on setting it, the arrivals are not steered, or the rate is not positive and
                finite.
        """
        return self._plan.arrivals.opening_rate if self._rate is None else self._rate

    @rate.setter
    @entry_point
    def rate(self, rate: float) -> None:
        if not self._plan.arrivals.steerable:
            raise LoadError(
                "the rate of these arrivals is fixed",
                got=repr(self._plan.arrivals),
                fix="load_test(..., steered(rate=20), wait=False)",
            )
        check_positive("LoadRun", "rate", rate, "requests per second above 0")
        self._rate = float(rate)
        self._worker.steer(self._rate)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds; return whether it has ended."""
        return self._worker.ended.wait(timeout)

    @entry_point
    def stop(self) -> R:
        """End it early and return its records; requests in flight get one more second."""
        self._worker.stop()
        return self.result()

    def kill(self) -> None:
        """Kill it, without a result."""
        self._worker.kill()
        self._worker.ended.wait()

    @entry_point
    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and return the result.

        Raises:
            TimeoutError: it is not done after ``timeout`` seconds.
            LoadError: nothing answers at the target, or the generator's process died.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the load test is not done after {timeout} s: {self!r}")
        if self._result is None:
            self._result = self._finish(self._plan, self._worker.outcome())
        return self._result

    def __repr__(self) -> str:
        now = self.progress
        load = f"{self._plan.arrivals!r} on {self._plan.target}"
        if self.done:
            return f"<LoadRun {load}: done>"
        if now.elapsed_s < 0:
            return f"<LoadRun {load}: warming up>"
        at = min(now.elapsed_s, self.duration_s)
        of = "" if math.isinf(self.duration_s) else f" of {self.duration_s:g}"
        state = f"{at:.0f}{of} s, {now.answered:,} ok, {now.failed:,} failed"
        return f"<LoadRun {load}: {state}, {now.in_flight:,} in flight>"


def watch(run: LoadRun[R], show: Callable[[LoadRun[R]], None] | None = None) -> R:
    """Wait for the end; on an interrupt stop the test and return its records.

    Args:
        run: the load test.
        show: called ten times a second, and at the end.
    """
    try:
        try:
            while not run.wait(REFRESH_S):  # in slices, so that an interrupt gets through
                if show is not None:
                    show(run)
        except KeyboardInterrupt:
            return run.stop()
        if show is not None:
            show(run)
        return run.result()
    except BaseException:
        if not run.done:
            run.kill()
        raise


def follow(run: LoadRun[R], *, wait: bool, progress: bool) -> R | LoadRun[R]:
    """Return the result of a load test once it is there; with ``wait=False`` the running test."""
    if not wait:
        return run
    return _watch_with_bar(run) if progress else watch(run)


def _watch_with_bar(run: LoadRun[R]) -> R:
    from tqdm.auto import tqdm

    total, layout = None, "{desc} {n:.0f} s {postfix}"
    if math.isfinite(run.duration_s):
        total = run.duration_s
        layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s {postfix}"
    with tqdm(total=total, desc="warming up", bar_format=layout) as bar:
        return watch(run, lambda run: _show(bar, run))


def _show(bar: Any, run: LoadRun[R]) -> None:
    now = run.progress
    bar.n = min(max(now.elapsed_s, 0.0), run.duration_s)
    if now.elapsed_s >= run.duration_s:
        bar.set_description_str("waiting for responses", refresh=False)
    elif now.elapsed_s >= 0:
        bar.set_description_str("load test", refresh=False)
    failed = f", {now.failed:,} failed" if now.failed else ""
    bar.set_postfix_str(f"{now.answered:,} ok{failed}, {now.in_flight:,} in flight", refresh=False)
    bar.refresh()
