"""What the measurements say: agreement, capacity, ranks and ratios. Data in, data out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple

from mlkit.load.analysis import ratio

__all__ = [
    "MIN_AGREEMENT",
    "Point",
    "Round",
    "Row",
    "agreement",
    "capacity",
    "ranking",
    "ratios",
    "summary",
]

MIN_AGREEMENT = 0.99
P99_SHARE = 0.8
"""Share of the best peer's saturated throughput at which p99 is compared."""

BLOG = "Ray Serve graph (oob)"


class Point(NamedTuple):
    """Poisson arrivals at one rate.

    Attributes:
        share: of the best peer's saturated throughput.
        rate: requests per second.
        p99_ms: from the scheduled time; infinite if more than one in a hundred failed.
        void: whether the generator was late.
    """

    share: float
    rate: float
    p99_ms: float
    void: bool = False


class Round(NamedTuple):
    """One start of a server.

    Attributes:
        ready_s: from its start to its first answer.
        saturated: answers per second in a closed loop.
        cpu_ms: CPU per answer in that loop, of all of the server's processes.
        s1_ms: median latency of a single client.
        pss_mb: memory of all processes after that.
        client_cores: that the generator took in the closed loop.
        points: by rate, ascending.
    """

    ready_s: float
    saturated: float
    cpu_ms: float
    s1_ms: float
    pss_mb: float
    client_cores: float
    points: tuple[Point, ...] = ()


@dataclass
class Row:
    """What is known of a server.

    Attributes:
        name: of the server.
        track: ``equal`` or ``oob``.
        is_peer: whether it is none of mlkit's own.
        agreement: of its tags with the reference; None if it was not seen.
        pilot: saturated throughput before the rounds; None if it did not come up.
        rounds: by number.
        problems: why it or some of its rounds are missing.
    """

    name: str
    track: Literal["equal", "oob"]
    is_peer: bool
    agreement: float | None = None
    pilot: float | None = None
    rounds: dict[int, Round] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether its numbers count: it agrees with the reference."""
        return self.agreement is not None and self.agreement >= MIN_AGREEMENT

    def to_dict(self, slo_ms: float) -> dict[str, Any]:
        """Convert to plain data, with means over the rounds; infinities become None."""
        means = {
            name: fmean(getattr(one, name) for one in self.rounds.values())
            for name in Round._fields
            if name != "points" and self.rounds
        }
        rounds = {
            str(number): {**one._asdict(), "points": [point._asdict() for point in one.points]}
            for number, one in self.rounds.items()
        }
        return _finite(
            {
                "track": self.track,
                "peer": self.is_peer,
                "agreement": self.agreement,
                "counts": self.counts and bool(self.rounds),
                "problems": self.problems,
                "means": means,
                "capacity": self._capacity(slo_ms),
                "rounds": rounds,
            }
        )

    def _capacity(self, slo_ms: float) -> float | None:
        found = [capacity(one.points, slo_ms) for one in self.rounds.values() if one.points]
        return fmean(found) if found else None


def agreement(found: Iterable[frozenset[str]], reference: Iterable[frozenset[str]]) -> float:
    """Share of tags that two series of answers have in common, of all that either has."""
    common = union = 0
    for ours, theirs in zip(found, reference, strict=True):
        common += len(ours & theirs)
        union += len(ours | theirs)
    return common / union if union else 1.0


def capacity(points: Sequence[Point], slo_ms: float) -> float:
    """The rate at which p99 reaches the objective, between the rates that were measured.

    Log-linear between the last rate that meets it, with all below, and the next. It is the highest
    measured rate if all meet it, and 0 if the lowest does not.
    """
    met: Point | None = None
    for point in sorted(points, key=lambda point: point.rate):
        if point.p99_ms <= slo_ms:
            met = point
        elif met is None:
            return 0.0
        elif math.isinf(point.p99_ms):
            return met.rate
        else:
            share = math.log(slo_ms / met.p99_ms) / math.log(point.p99_ms / met.p99_ms)
            return met.rate + share * (point.rate - met.rate)
    return met.rate if met else 0.0


Measure = Callable[[Round], float]


def ranking(rows: Iterable[Row], measure: Measure, *, lowest: bool = False) -> list[Row]:
    """Rows that count and have rounds, best mean first."""
    ranked = [row for row in rows if row.counts and row.rounds]
    ranked.sort(key=lambda row: fmean(map(measure, row.rounds.values())), reverse=not lowest)
    return ranked


def ratios(a: Row, b: Row, measure: Measure) -> dict[str, Any]:
    """Mean of one over mean of the other, over the rounds that both have.

    With five rounds or more the interval is that of a paired bootstrap, with 95% confidence; with
    fewer it is the range of the rounds, and ``interval`` says so.
    """
    common = sorted(a.rounds.keys() & b.rounds.keys())
    ours, theirs = ([measure(row.rounds[number]) for number in common] for row in (a, b))
    found: dict[str, Any] = {"of": a.name, "over": b.name, "rounds": len(common)}
    if not common or not all(map(math.isfinite, [*ours, *theirs])) or not all(theirs):
        value = low = high = math.nan
        found["interval"] = "none"
    elif len(common) >= 5:
        value, low, high, *_ = ratio(ours, theirs)
        found["interval"] = "95%, bootstrap by round"
    else:
        each = [x / y for x, y in zip(ours, theirs, strict=True)]
        value, low, high = fmean(ours) / fmean(theirs), min(each), max(each)
        found["interval"] = "range of the rounds"
    return _finite({"value": value, "low": low, "high": high, **found})


def summary(rows: Mapping[str, Row], ours: str, slo_ms: float) -> dict[str, Any]:
    """The ratios of mlkit to the best peers; one that cannot be had is left out."""
    if ours not in rows or not rows[ours].counts or not rows[ours].rounds:
        return {}
    mine = rows[ours]
    equal = [row for row in rows.values() if row.is_peer and row.track == "equal"]
    oob = [row for row in rows.values() if row.is_peer and row.track == "oob"]
    fastapi = [row for row in equal if row.name.startswith("FastAPI")]

    def p99(one: Round) -> float:
        return next((p.p99_ms for p in one.points if p.share == P99_SHARE), math.nan)

    def at_slo(one: Round) -> float:
        return capacity(one.points, slo_ms)

    compared: list[tuple[str, Iterable[Row], Measure, bool]] = [
        ("saturated_over_fastapi", fastapi, _saturated, False),
        ("saturated_over_best_peer", equal, _saturated, False),
        ("cpu_over_best_peer", equal, _cpu, True),
        ("capacity_over_best_peer", equal, at_slo, False),
        ("p99_at_80pct_over_best_peer", equal, p99, True),
        ("oob_over_best_peer", oob, _saturated, False),
        ("blog_graph", [row for row in oob if row.name == BLOG], _saturated, False),
    ]
    found = {}
    for name, among, measure, lowest in compared:
        ranked = ranking(among, measure, lowest=lowest)
        if ranked:
            found[name] = ratios(mine, ranked[0], measure)
    return found


def _saturated(one: Round) -> float:
    return one.saturated


def _cpu(one: Round) -> float:
    return one.cpu_ms


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    """A document without infinities and NaN, which JSON does not have."""
    return {name: _finite_value(value) for name, value in document.items()}


def _finite_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _finite(value)
    if isinstance(value, list):
        return [_finite_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
