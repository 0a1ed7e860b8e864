"""The search for a capacity: which rate to measure next, given the previous measurements.

`search` is a generator that yields a `Probe` and is sent its `RateTrial`; it neither measures nor
waits. `drive` connects it with a function that does. Four phases:

1. **bracket**: short runs, faster by half or slower by a third, until one looks good and one bad.
2. **bisect**: short runs between both, until they are close.
3. **certify**: longer runs from there down, judged by evidence instead of looks.
4. **verify**: more runs at a certified rate, which holds if all of them together meet the SLO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from mlkit.errors import LoadError
from mlkit.load import analysis
from mlkit.load.slo import SHARES, SLO, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "INTERRUPTED",
    "Effort",
    "Measured",
    "Phase",
    "Probe",
    "RateTrial",
    "drive",
    "evidence",
    "search",
]

FACTOR = 1.5
"""Ratio of one rate of the bracket to the next."""
LEAST_REQUESTS = 200
"""Minimum requests in a run of the bracket, so that its p99 is not its slowest request."""
SPARE = 3
"""Requests of a certifying run, as a multiple of the independent ones that could do."""
MAX_BRACKET, MAX_CERTIFY = 24, 12
"""Maximum number of rates per phase."""
INTERRUPTED = "interrupted"
"""Why an interrupted search ended."""

Phase: TypeAlias = Literal["bracket", "bisect", "certify", "verify"]
DECIDING: tuple[Phase, ...] = ("certify", "verify")


class Measured(Protocol):
    """The measurements at one rate, such as a `LoadResult`."""

    @property
    def duration_s(self) -> float:
        """Length of the run in seconds."""

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """In the order of sending; infinite for failed requests."""

    @property
    def void(self) -> tuple[str, ...]:
        """Why the figures are not valid; empty if they are."""

    @property
    def interrupted(self) -> bool:
        """Whether the run was stopped early."""

    def verdict(self, slo: SLO) -> Verdict:
        """Judge the run."""


class Probe(NamedTuple):
    """A run that the search asks for: requests per second, for some seconds."""

    rate: float
    duration_s: float
    phase: Phase


@dataclass(frozen=True)
class RateTrial:
    """A rate measured against an SLO.

    Attributes:
        probe: the requested measurement.
        measured: its result.
        verdict: of this run alone.
    """

    probe: Probe
    measured: Measured
    verdict: Verdict

    @property
    def looks_good(self) -> bool:
        """Whether it is valid, and its percentiles are within the SLO, evidence or not."""
        return not self.measured.void and self.verdict.looks_met


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard to search.

    Attributes:
        precision: how close the rate that holds and one that does not should come, as a share.
        probe_s: least length of a run in seconds.
        max_run_s: longest time in seconds to certify one rate.
        verify: number of runs that verify a certified rate.
        min_rate: lowest rate that is tried, in requests per second.
        max_rate: highest rate that is tried, in requests per second.
    """

    precision: float = 0.05
    probe_s: float = 5.0
    max_run_s: float = 120.0
    verify: int = 3
    min_rate: float
    max_rate: float = math.inf


Steps: TypeAlias = Generator[Probe, RateTrial, str]


def drive(
    steps: Steps, slo: SLO, measure: Callable[[Probe], Measured], trials: list[RateTrial]
) -> str:
    """Run the measurements of a search, and append each trial; return why it ended.

    Measurements are kept: an interrupted run ends the search, as does an error after the first
    run.

    Raises:
        LoadError: the first run could not be measured.
    """
    probe = next(steps)
    while True:
        try:
            measured = measure(probe)
        except KeyboardInterrupt:
            return INTERRUPTED
        except LoadError as error:
            if not trials:
                raise
            return f"at {probe.rate:.3g}/s: {error.what}"
        trials.append(RateTrial(probe, measured, measured.verdict(slo)))
        if measured.interrupted:
            return INTERRUPTED
        try:
            probe = steps.send(trials[-1])
        except StopIteration as end:
            return str(end.value)


def evidence(trials: Iterable[RateTrial], slo: SLO) -> dict[float, Verdict]:
    """The verdict on each rate of which a verdict was sought, from all its valid runs together.

    Runs are joined in the order measured, so that differences between them count as dependence.
    """
    rates: dict[float, list[RateTrial]] = {}
    for trial in trials:
        if trial.probe.phase in DECIDING and not trial.measured.void:
            rates.setdefault(trial.probe.rate, []).append(trial)
    return {rate: _pooled(at_rate, slo) for rate, at_rate in rates.items()}


def _pooled(trials: Sequence[RateTrial], slo: SLO) -> Verdict:
    import numpy as np

    if len(trials) == 1:
        return trials[0].verdict
    verdict = slo.judge(np.concatenate([trial.measured.latency_ms for trial in trials]))
    late = any(percentile.late for trial in trials for _, percentile in trial.verdict.judged)
    if late and verdict.outcome == "missed":  # lateness only makes latencies longer
        return replace(verdict, outcome="undecided", reason="requests were sent late")
    return verdict


def search(slo: SLO, start_rate: float, effort: Effort) -> Steps:
    """Search for the highest rate that meets the SLO; returns why it ended.

    Args:
        slo: the objectives.
        start_rate: the first rate, in requests per second; a guess.
        effort: how hard to search.
    """
    good, bad = yield from _bracket(start_rate, effort)
    good, bad = yield from _bisect(good, bad, effort)
    return (yield from _settle(slo, good, bad, effort))


# ---- by estimates ---------------------------------------------------------------------------


def _bracket(rate: float, effort: Effort) -> Generator[Probe, RateTrial, tuple[float, float]]:
    """A rate that looks good (0 if none does), and one that does not (infinite if all do)."""
    good, bad, rate = 0.0, math.inf, min(max(rate, effort.min_rate), effort.max_rate)
    for _ in range(MAX_BRACKET):
        if (yield from _looks_good(rate, "bracket", effort)):
            good, following = rate, min(rate * FACTOR, effort.max_rate)
        else:
            bad, following = rate, max(rate / FACTOR, effort.min_rate)
        if (good and bad < math.inf) or following == rate:
            break
        rate = following
    return good, bad


def _bisect(
    good: float, bad: float, effort: Effort
) -> Generator[Probe, RateTrial, tuple[float, float]]:
    """Rates with the same meaning, as close as the precision asks."""
    while good and bad < math.inf and bad / good > 1 + effort.precision:
        middle = math.sqrt(good * bad)
        if (yield from _looks_good(middle, "bisect", effort)):
            good = middle
        else:
            bad = middle
    return good, bad


def _looks_good(rate: float, phase: Phase, effort: Effort) -> Generator[Probe, RateTrial, bool]:
    duration_s = min(max(effort.probe_s, LEAST_REQUESTS / rate), effort.max_run_s)
    return (yield from _try(Probe(rate, duration_s, phase))).looks_good


def _try(probe: Probe) -> Generator[Probe, RateTrial, RateTrial]:
    trial = yield probe
    if trial.measured.void and trial.verdict.looks_met:
        # The generator was disturbed, not the server: once more.
        trial = yield probe
    return trial


# ---- by confidence bounds -------------------------------------------------------------------


def _settle(slo: SLO, good: float, bad: float, effort: Effort) -> Steps:
    """Go down from the rate that looks good to one that holds, and close the gap above it."""
    holds, fails, rate, step = 0.0, bad, good or bad, 1 + effort.precision
    for _ in range(MAX_CERTIFY):
        held, hopeless = yield from _examine(slo, rate, effort)
        if hopeless:
            return hopeless
        holds, fails = (rate, fails) if held else (holds, rate)
        if holds:
            if fails == math.inf:
                return f"{holds:.3g}/s is the highest rate that was to be tried"
            if fails / holds <= 1 + 1.01 * effort.precision:
                return ""
            rate = math.sqrt(holds * fails)
        elif rate <= effort.min_rate:
            return f"no rate down to {rate:.3g}/s holds"
        else:
            rate, step = max(rate / step, effort.min_rate), step * step
    return f"ended after {MAX_CERTIFY} rates"


def _examine(
    slo: SLO, rate: float, effort: Effort
) -> Generator[Probe, RateTrial, tuple[bool, str]]:
    """Whether the SLO holds at a rate, and why no lower rate can be shown to hold either."""
    enough = analysis.needed(0, share=SHARES[slo.objectives[-1].name])
    first_s = min(max(effort.probe_s, SPARE * enough / rate), effort.max_run_s)
    trials: list[RateTrial] = []
    spent_s, duration_s = 0.0, first_s
    while True:
        trial = yield from _try(Probe(rate, duration_s, "certify"))
        if trial.measured.void:
            return False, ""
        trials.append(trial)
        spent_s += duration_s
        verdict = _pooled(trials, slo)
        if verdict.outcome == "met":
            break
        if verdict.outcome == "missed" or not verdict.looks_met:
            return False, ""
        if not _within_reach(slo, trials, effort.max_run_s / spent_s):
            few = rate * effort.max_run_s < enough
            return False, _too_few(rate, enough, effort) if few else ""
        duration_s = min(spent_s, effort.max_run_s - spent_s)  # twice as much evidence
    for _ in range(effort.verify):
        trial = yield from _try(Probe(rate, first_s, "verify"))
        if trial.measured.void or trial.verdict.outcome == "missed":
            return False, ""
        trials.append(trial)
    return _pooled(trials, slo).outcome == "met", ""


def _within_reach(slo: SLO, trials: Sequence[RateTrial], growth: float) -> bool:
    """Whether ``growth`` times as many requests like these would meet the SLO."""
    import numpy as np

    if growth <= 1.05:
        return False
    latency_ms = np.concatenate([trial.measured.latency_ms for trial in trials])
    for name, limit_ms in slo.objectives:
        per_request = growth / analysis.inflation(latency_ms, SHARES[name])
        over = int((latency_ms > limit_ms).sum() * per_request)
        if not analysis.certifies(int(len(latency_ms) * per_request), over, share=SHARES[name]):
            return False
    return True


def _too_few(rate: float, enough: int, effort: Effort) -> str:
    return (
        f"at {rate:.3g}/s, {effort.max_run_s:g} s have too few requests for a verdict, "
        f"which takes {enough / rate:.0f} s or more (max_run_s)"
    )
