"""Load tests along one knob: ``sweep(app, payloads, arrivals, knob=..., values=...)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError, entry_point
from mlkit.load.arrivals import Arrivals
from mlkit.load.compare import Comparison
from mlkit.load.payloads import reusable
from mlkit.load.requests import Preparable
from mlkit.load.results import LoadResult
from mlkit.load.runner import load_test

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

__all__ = ["Sweep", "sweep"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep:
    """One load test per value of a knob.

    Attributes:
        knob: name of the changed option.
        results: by value, in the order measured.
        interrupted: whether it was stopped early; the last result is then a part of its run.
    """

    knob: str
    results: Mapping[Any, LoadResult]
    interrupted: bool = False

    def to_frame(self) -> pd.DataFrame:
        """A row per value: rates in requests per second, latencies in ms."""
        frame = self.compare().to_frame()
        frame.index.name = self.knob
        return frame

    def compare(self) -> Comparison:
        """Compare each value with the first: faster, slower or undecided."""
        return Comparison(self.results)

    def plot(self) -> matplotlib.figure.Figure:
        """Draw throughput and latency against the value."""
        from mlkit.views.mpl.sweep import plot_sweep

        return plot_sweep(self)

    def __repr__(self) -> str:
        state = " (interrupted)" if self.interrupted else ""
        return f"Sweep of {self.knob}{state}\n{self.to_frame().round(2).to_string()}"

    def _repr_html_(self) -> str:
        return str(self.to_frame().round(2)._repr_html_())  # type: ignore[operator]


@entry_point
def sweep(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    *,
    knob: str | Callable[[Any], object],
    values: Iterable[Any],
    of: str | None = None,
    duration_s: float = 10.0,
    **options: Any,
) -> Sweep:
    """Run the same load test for each value of a knob.

    ::

        sweep(app, photos, closed(concurrency=32), knob="max_batch_size", values=[1, 4, 16],
              of="classify")
        sweep(url, photos, poisson(rate=50), knob=restart_with_threads, values=[1, 2, 4])

    The target keeps the last value. Interrupting the cell returns the completed runs.

    Args:
        target: a deployed App, or the URL of any server.
        payloads: as for `load_test`.
        arrivals: the same for each value: `closed` shows the throughput, `poisson` the latency at a
            rate.
        knob: an option of ``app.scale``, such as ``"num_replicas"``; or a function that sets a
            value and returns when the server is ready.
        values: the values, in the order in which they are tried.
        of: name of the stage or step whose option it is; the app's own by default.
        duration_s: length of each test in seconds.
        options: as for `load_test`.

    Raises:
        LoadError: the knob cannot be set, there is no value, or a load test could not run.
    """
    payloads, listed = reusable(payloads), list(values)
    if not listed or len(set(listed)) < len(listed):
        raise LoadError(
            "a sweep needs different values",
            where="sweep(values=...)",
            expected="at least one, each once",
            got=repr(listed),
        )
    apply = knob if callable(knob) else _scaling(target, knob, of)
    results: dict[Any, LoadResult] = {}
    interrupted = False
    try:
        for value in listed:
            apply(value)
            result = load_test(target, payloads, arrivals, duration_s=duration_s, **options)
            results[value] = result
            interrupted = result.interrupted
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    name = knob if isinstance(knob, str) else getattr(knob, "__name__", "value")
    return Sweep(knob=name, results=results, interrupted=interrupted)


def _scaling(target: Any, option: str, of: str | None) -> Callable[[Any], object]:
    scale = getattr(target, "scale", None)
    if scale is None:
        raise LoadError(
            "this target has no options to change",
            where=f"sweep(knob={option!r})",
            expected="a deployed App",
            got=type(target).__name__,
            fix="pass a function that sets a value: sweep(..., knob=restart_with, values=[1, 2])",
        )
    stage = of or target.name
    return lambda value: scale(stage, **{option: value})
