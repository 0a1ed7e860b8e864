"""Latency objectives, and verdicts on them: met, missed or undecided.

Both "met" and "missed" take evidence: a confidence bound of the percentile on its side of the
limit, computed from as many independent requests as the dependent ones are worth
(`mlkit.load.analysis.inflation`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from mlkit.errors import LoadError
from mlkit.load import analysis
from mlkit.load.spec import check_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SHARES", "SLO", "Objective", "Outcome", "Percentile", "Verdict", "percentile_of"]

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}
CONFIDENCE = 0.99
"""Confidence of each bound of a percentile, and so of "met" and of "missed"."""

Outcome: TypeAlias = Literal["met", "missed", "undecided"]


class Percentile(NamedTuple):
    """A percentile of the latency in ms.

    ``at_least_ms`` and ``at_most_ms`` are its bounds, each with 99% confidence; NaN where there
    were too few requests for one, or where the generator sent too late for this percentile
    (``late``). ``worth`` is the number of independent requests with as much evidence.
    """

    name: str
    share: float
    value_ms: float
    at_least_ms: float
    at_most_ms: float
    late: bool = False
    worth: int = 0

    @property
    def certified(self) -> bool:
        """Whether there is an upper bound."""
        return not math.isnan(self.at_most_ms)

    def outcome(self, limit_ms: float) -> Outcome:
        """Whether it is at most ``limit_ms``, if its bounds decide that."""
        if self.at_most_ms <= limit_ms:
            return "met"
        return "missed" if self.at_least_ms > limit_ms else "undecided"


def percentile_of(
    latency_ms: NDArray[np.float64],
    name: str,
    *,
    inflation: float | None = None,
    confidence: float = CONFIDENCE,
) -> Percentile:
    """A percentile with its bounds.

    Args:
        latency_ms: in the order of sending; infinite for failed requests.
        name: ``"p50"``, ``"p95"``, ``"p99"`` or ``"p99_9"``.
        inflation: as from `mlkit.load.analysis.inflation`; estimated by default.
        confidence: of each bound.
    """
    share = SHARES[name]
    if inflation is None:
        inflation = analysis.inflation(latency_ms, share)
    low = analysis.at_least(latency_ms, share, confidence=confidence, inflation=inflation)
    high = analysis.at_most(latency_ms, share, confidence=confidence, inflation=inflation)
    value, worth = analysis.percentile(latency_ms, share), int(len(latency_ms) / inflation)
    return Percentile(name, share, value, low, high, worth=worth)


class Objective(NamedTuple):
    """One objective of an `SLO`: a limit of a percentile, in ms."""

    name: str
    limit_ms: float

    def __str__(self) -> str:
        return f"{self.name.replace('_', '.')} under {self.limit_ms:g} ms"


@dataclass(frozen=True, kw_only=True)
class SLO:
    """Latency objectives: limits of percentiles, in ms.

    ::

        SLO(p99_ms=150)
        SLO(p50_ms=40, p99_ms=150)

    A failed request counts as infinitely slow.

    Raises:
        LoadError: there is no objective, a limit is not positive and finite, or a higher
            percentile has a lower limit.
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p99_9_ms: float | None = None

    def __post_init__(self) -> None:
        for objective in self.objectives:
            check_positive("SLO", f"{objective.name}_ms", objective.limit_ms, "ms above 0")
        limits = [objective.limit_ms for objective in self.objectives]
        if not limits:
            raise LoadError("an SLO needs an objective", where="SLO()", fix="SLO(p99_ms=150)")
        if limits != sorted(limits):
            raise LoadError(
                "a higher percentile cannot have a lower limit",
                where=repr(self),
                expected="limits that do not decrease from p50 to p99.9",
            )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Its objectives, from the lowest percentile to the highest."""
        limits = ((field.name, getattr(self, field.name)) for field in fields(self))
        return tuple(
            Objective(name.removesuffix("_ms"), limit)
            for name, limit in limits
            if limit is not None
        )

    @property
    def limit_ms(self) -> float:
        """The limit of its highest percentile: a slower response is no use to anyone."""
        return self.objectives[-1].limit_ms

    def judge(self, latency_ms: NDArray[np.float64], *, confidence: float = CONFIDENCE) -> Verdict:
        """Judge the latencies of requests.

        Args:
            latency_ms: in the order of sending; infinite for failed requests.
            confidence: of "met", and of "missed".
        """
        return self.judge_percentiles(
            {
                name: percentile_of(latency_ms, name, confidence=confidence)
                for name, _ in self.objectives
            }
        )

    def judge_percentiles(self, percentiles: Mapping[str, Percentile]) -> Verdict:
        """Judge percentiles by name, which may be more than there are objectives."""
        judged = tuple((objective, percentiles[objective.name]) for objective in self.objectives)
        outcomes = {percentile.outcome(objective.limit_ms) for objective, percentile in judged}
        outcome: Outcome = "undecided"
        if "missed" in outcomes:
            outcome = "missed"
        elif outcomes == {"met"}:
            outcome = "met"
        return Verdict(outcome, judged, _reason(outcome, judged))

    def within(self, latency_ms: NDArray[np.float64]) -> int:
        """Number of requests that were answered within `limit_ms`."""
        return int((latency_ms <= self.limit_ms).sum())

    def __str__(self) -> str:
        return " and ".join(map(str, self.objectives))

    def __repr__(self) -> str:
        arguments = (f"{name}_ms={limit:g}" for name, limit in self.objectives)
        return f"SLO({', '.join(arguments)})"


@dataclass(frozen=True)
class Verdict:
    """Whether an SLO was met.

    Attributes:
        outcome: ``"met"`` or ``"missed"``, each with 99% confidence, or ``"undecided"``.
        judged: each objective, with the percentile that was measured.
        reason: the deciding evidence, or the missing evidence.
    """

    outcome: Outcome
    judged: tuple[tuple[Objective, Percentile], ...]
    reason: str

    @property
    def looks_met(self) -> bool:
        """Whether the measured percentiles are within their limits, evidence or not."""
        return all(percentile.value_ms <= limit for (_, limit), percentile in self.judged)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"


def _reason(outcome: Outcome, judged: tuple[tuple[Objective, Percentile], ...]) -> str:
    parts = [
        _bounds(objective, percentile)
        for objective, percentile in judged
        if outcome == "met" or percentile.outcome(objective.limit_ms) == outcome
    ]
    return ", ".join(parts)


def _bounds(objective: Objective, percentile: Percentile) -> str:
    name = objective.name.replace("_", ".")
    if percentile.late:
        return f"{name} unknown, requests left late"
    low, high = f"≥ {percentile.at_least_ms:.3g} ms", f"≤ {percentile.at_most_ms:.3g} ms"
    outcome = percentile.outcome(objective.limit_ms)
    if outcome != "undecided":
        return f"{name} {high if outcome == 'met' else low}"
    if not percentile.certified:
        least = analysis.needed(0, share=percentile.share)
        high = f"no upper bound (worth {percentile.worth:,} independent requests of {least:,})"
    known = [high] if math.isnan(percentile.at_least_ms) else [low, high]
    return f"{name} {', '.join(known)}"
