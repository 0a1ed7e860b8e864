"""The capacity of a server at an SLO: ``capacity(app, payloads, SLO(p99_ms=150))``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from mlkit.errors import LoadError, entry_point
from mlkit.load.arrivals import closed, poisson
from mlkit.load.payloads import reusable
from mlkit.load.requests import Preparable
from mlkit.load.results import LoadResult
from mlkit.load.runner import load_test
from mlkit.load.running import LoadRun, watch
from mlkit.load.search import INTERRUPTED, Effort, Probe, RateTrial, drive, evidence, search
from mlkit.load.slo import SLO, Outcome, Verdict
from mlkit.load.spec import check_integer, check_positive

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

    from mlkit.load.expect import Expect

__all__ = ["Capacity", "capacity"]

PILOT_CLIENTS = 16
PILOT_S = 3.0
START_SHARE = 0.6
"""First rate, as a share of the saturated throughput."""
SLOWEST_SHARE = 0.02
"""Lowest rate that is tried, as a share of the first."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Capacity:
    """The highest rate at which a server meets an SLO, and all that was measured to find it.

    Attributes:
        target: the server, as text.
        slo: the objectives.
        trials: the runs at scheduled rates, in the order measured.
        saturated: the closed loop that estimated the throughput, where there was one.
        verify: number of runs that had to verify a rate.
        reason: why the search ended where it did; ``""`` if the gap was closed.
    """

    target: str
    slo: SLO
    trials: tuple[RateTrial, ...]
    saturated: LoadResult | None
    verify: int
    reason: str

    @cached_property
    def evidence(self) -> dict[float, Verdict]:
        """The verdict by rate, from all certifying and verifying runs at that rate together."""
        return evidence(self.trials, self.slo)

    @cached_property
    def rate(self) -> float | None:
        """The highest rate in requests per second that was certified and verified, or None."""
        return max(filter(self._holds, self.evidence), default=None)

    def _holds(self, rate: float) -> bool:
        runs = [t for t in self.trials if t.probe.rate == rate and t.probe.phase == "verify"]
        outcomes = [trial.verdict.outcome for trial in runs if not trial.measured.void]
        enough = len(outcomes) >= self.verify and "missed" not in outcomes
        return enough and self.evidence[rate].outcome == "met"

    @cached_property
    def unmet_rate(self) -> float | None:
        """The lowest rate above `rate` at which the SLO was not shown to be met, or None.

        `evidence` has the verdict on it, if one was sought: it may be undecided.
        """
        good = {t.probe for t in self.trials if t.looks_good}
        unmet = {
            t.probe.rate
            for t in self.trials
            # A void run that looked good was repeated.
            if not t.looks_good
            and not (t.measured.void and t.verdict.looks_met and t.probe in good)
        }
        unmet |= {rate for rate, verdict in self.evidence.items() if verdict.outcome != "met"}
        return min((rate for rate in unmet if rate > (self.rate or 0.0)), default=None)

    @property
    def outcome(self) -> Outcome:
        """Whether the SLO was ``"met"`` at some rate, or ``"missed"`` at the slowest one tried.

        Else ``"undecided"``; see `reason` and `evidence`.
        """
        if self.rate is not None:
            return "met"
        slowest = min((trial.probe.rate for trial in self.trials), default=math.nan)
        verdict = self.evidence.get(slowest)
        return "missed" if verdict is not None and verdict.outcome == "missed" else "undecided"

    @property
    def interrupted(self) -> bool:
        """Whether the search was stopped early."""
        return self.reason == INTERRUPTED

    def to_frame(self) -> pd.DataFrame:
        """A row per run: rates in requests per second, latencies in ms.

        ``goodput`` counts the responses within the SLO's limit; ``verdict`` is of the run alone.
        """
        import pandas as pd

        return pd.DataFrame([_row(trial, self.slo) for trial in self.trials], columns=_COLUMNS)

    def plot(self) -> matplotlib.figure.Figure:
        """Draw latency and goodput against the offered rate, with the capacity and the knee."""
        from mlkit.views.mpl.capacity import plot_capacity

        return plot_capacity(self)

    def __repr__(self) -> str:
        from mlkit.views.capacity import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from mlkit.views.capacity import to_html

        return to_html(self)


_COLUMNS = [
    *("phase", "rate", "duration_s", "requests", "ok_rate", "goodput"),
    *("p50_ms", "p95_ms", "p99_ms", "verdict", "void"),
]


def _row(trial: RateTrial, slo: SLO) -> dict[str, Any]:
    result = cast("LoadResult", trial.measured)
    percentiles = result.percentiles
    return {
        "phase": trial.probe.phase,
        "rate": trial.probe.rate,
        "duration_s": result.duration_s,
        "requests": len(result),
        "ok_rate": result.ok_rate,
        "goodput": slo.within(result.latency_ms) / max(result.duration_s, 1e-9),
        **{f"{name}_ms": percentiles[name].value_ms for name in ("p50", "p95", "p99")},
        "verdict": trial.verdict.outcome,
        "void": bool(result.void),
    }


@entry_point
def capacity(
    target: Preparable | str,
    payloads: Any,
    slo: SLO,
    *,
    start_rate: float | None = None,
    min_rate: float | None = None,
    max_rate: float | None = None,
    precision: float = 0.05,
    probe_s: float = 5.0,
    max_run_s: float = 120.0,
    verify: int = 3,
    warmup_s: float = 1.0,
    timeout_s: float | None = None,
    expect: Expect | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Capacity:
    """Find the highest rate of Poisson arrivals at which a server meets an SLO.

    ::

        capacity(app, payloads, SLO(p99_ms=150)).plot()

    Short runs bracket the rate and bisect the bracket; longer ones certify a rate, with 99%
    confidence, and verify it. This takes some minutes. Interrupting the cell ends it and returns
    the measurements so far.

    Args:
        target: a deployed App, or the URL of any server.
        payloads: as for `load_test`.
        slo: the objectives.
        start_rate: the first rate in requests per second. By default a closed loop of some seconds
            estimates the throughput, and the search starts at 60% of it.
        min_rate: lowest rate that is tried; a fiftieth of the first by default.
        max_rate: highest rate that is tried; unlimited by default.
        precision: how close the rate that holds and one that does not should come, as a share.
        probe_s: least length of a run in seconds.
        max_run_s: longest time in seconds to certify one rate.
        verify: number of runs that verify a certified rate.
        warmup_s: seconds of the same load before each run, not recorded.
        timeout_s: as for `load_test`.
        expect: as for `load_test`.
        progress: show the current measurement in one line.
        seed: of the schedules and of the order of the payloads; each run has another schedule.

    Raises:
        LoadError: an argument is invalid, nothing answers at the target, or no request succeeds.
    """
    _check(slo, start_rate=start_rate, min_rate=min_rate, max_rate=max_rate)
    _check_effort(precision, probe_s, max_run_s, verify)
    options: dict[str, Any] = {
        "warmup_s": warmup_s,
        "timeout_s": timeout_s,
        "expect": expect,
        "seed": seed,
    }
    payloads = reusable(payloads)
    with _Status(progress) as status:

        def run(arrivals: Any, duration_s: float, **more: Any) -> LoadResult:
            started = load_test(
                target, payloads, arrivals, duration_s=duration_s, wait=False, **options, **more
            )
            return watch(started, status.show)

        saturated = None
        if start_rate is None:
            status.begin(f"throughput, {PILOT_CLIENTS} clients")
            saturated = run(closed(concurrency=PILOT_CLIENTS), PILOT_S)
            start_rate = START_SHARE * _throughput(saturated)
        effort = Effort(
            precision=precision,
            probe_s=probe_s,
            max_run_s=max_run_s,
            verify=verify,
            min_rate=min(min_rate or SLOWEST_SHARE * start_rate, max_rate or math.inf),
            max_rate=max_rate or math.inf,
        )
        trials: list[RateTrial] = []

        def measure(probe: Probe) -> LoadResult:
            status.begin(f"{probe.phase} {probe.rate:.3g}/s")
            # Another schedule each time: the search would fit a fixed one.
            arrivals = poisson(rate=probe.rate, seed=seed + len(trials))
            return run(arrivals, probe.duration_s, slo_ms=slo.p99_ms)

        if saturated is not None and saturated.interrupted:
            reason = INTERRUPTED
        else:
            reason = drive(search(slo, start_rate, effort), slo, measure, trials)
    runs = [saturated, *(cast("LoadResult", trial.measured) for trial in trials)]
    return Capacity(
        target=next((run.target for run in runs if run is not None), ""),
        slo=slo,
        trials=tuple(trials),
        saturated=saturated,
        verify=verify,
        reason=reason,
    )


def _throughput(saturated: LoadResult) -> float:
    """Responses per second of the closed loop, those after its end included."""
    answers = int(saturated.ok.sum())
    if answers:
        last_s = float(saturated.columns["finished"][saturated.ok].max())
        return answers / max(saturated.duration_s, last_s)
    if saturated.interrupted:
        return 1.0  # nothing follows
    kinds = ", ".join(f"{count:,} × {kind}" for kind, count in saturated.errors.items())
    details = [sample.detail for sample in saturated.failures if sample.detail]
    raise LoadError(
        f"no request succeeds at {saturated.target}",
        where="capacity(...)",
        got=": ".join([kinds or "no response", *details[:1]]),
        fix="try one request; start_rate= skips the closed loop that estimates the throughput",
    )


def _check(slo: object, **rates: float | None) -> None:
    if not isinstance(slo, SLO):
        raise LoadError(
            "capacity needs an objective",
            where="capacity(target, payloads, slo)",
            expected="SLO(p99_ms=150)",
            got=repr(slo),
        )
    for name, rate in rates.items():
        if rate is not None:
            check_positive("capacity", name, rate, "requests per second above 0")
    low, high = rates["min_rate"] or 0.0, rates["max_rate"] or math.inf
    if low > high:
        raise LoadError(
            "min_rate is above max_rate", where="capacity(...)", got=f"{low:g} and {high:g}"
        )


def _check_effort(precision: float, probe_s: float, max_run_s: float, verify: int) -> None:
    check_positive("capacity", "precision", precision, "a share above 0, e.g. 0.05")
    check_positive("capacity", "probe_s", probe_s, "seconds above 0")
    check_positive("capacity", "max_run_s", max_run_s, "seconds above 0")
    check_integer("capacity", "verify", verify, 0)


class _Status:
    """The current measurement in one line: ``bisect 84/s, 3 of 5 s, 2,310 ok, run 7``."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._words, self._runs = shown, "", 0

    def __enter__(self) -> _Status:
        from tqdm.auto import tqdm

        self._bar = tqdm(bar_format="{desc}", disable=not self._shown)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def begin(self, words: str) -> None:
        """Start a run."""
        self._runs += 1
        self._words = words

    def show(self, run: LoadRun) -> None:
        """Show the progress of a run."""
        now = run.progress
        at = f"{max(0.0, now.elapsed_s):.0f} of {run.duration_s:.0f} s"
        failed = f", {now.failed:,} failed" if now.failed else ""
        self._bar.set_description_str(
            f"run {self._runs}: {self._words}, {at}, {now.answered:,} ok{failed}"
        )
