"""How an app's replicas came and went: what was decided, what was wanted, and what was ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlkit.autoscale.decide import Decision

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Count", "Scaling", "ScalingLog"]

MOST_DECISIONS = 2_000
MOST_COUNTS = 8_000


@dataclass(frozen=True)
class Count:
    """Replicas of a stage at one moment, as Ray Serve has them.

    Attributes:
        at: seconds since the epoch.
        wanted: that there should be.
        ready: that answer.
        starting: on their way, placed or not.
    """

    at: float
    stage: str
    wanted: int
    ready: int
    starting: int = 0

    def to_dict(self) -> dict[str, Any]:
        """It as plain data."""
        return asdict(self)


class ScalingLog:
    """What happened to an app's replicas, numbered as it comes; the oldest go."""

    def __init__(self) -> None:
        self.last = 0
        self._decisions: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOST_DECISIONS)
        self._counts: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOST_COUNTS)

    def push(
        self, decisions: Iterable[dict[str, Any]] = (), counts: Iterable[dict[str, Any]] = ()
    ) -> None:
        """Take up decisions and counts, as plain data."""
        for kept, new in ((self._decisions, decisions), (self._counts, counts)):
            for one in new:
                self.last += 1
                kept.append((self.last, one))

    def since(self, number: int) -> dict[str, Any]:
        """What came after a number, and the number of the latest.

        One that is not known here is from before this was started anew: then all is new.
        """
        number = number if number <= self.last else 0
        return {
            "last": self.last,
            "decisions": [one for known, one in self._decisions if known > number],
            "counts": [one for known, one in self._counts if known > number],
        }


class Scaling:
    """Decisions and counts of an app, as its kernel has read them.

    Its text lists the decisions; `to_frame` gives them as data, `plot` draws them on one time axis
    with arrivals and latency.

    Attributes:
        decisions: the oldest first.
        counts: whenever one changed.
    """

    def __init__(self, history: Any = None) -> None:
        self.decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.counts: deque[Count] = deque(maxlen=MOST_COUNTS)
        self.history = history

    def add(self, found: dict[str, Any]) -> None:
        """Take up what `ScalingLog.since` gave."""
        # Several processes decide and count, and their words cross on the way.
        new = sorted((Decision(**one) for one in found["decisions"]), key=lambda one: one.at)
        self.decisions.extend(new)
        self.counts.extend(Count(**one) for one in found["counts"])

    @property
    def stages(self) -> list[str]:
        """Stages that replicas were counted of, in the order in which they were."""
        return list(dict.fromkeys(count.stage for count in self.counts))

    def latest(self) -> dict[str, Count]:
        """The last count of each stage."""
        return {count.stage: count for count in self.counts}

    def to_frame(self) -> pd.DataFrame:
        """A row for each decision: ``time, stage, kind, from, to, why``."""
        import pandas as pd

        rows = [
            {
                "time": pd.Timestamp(one.at, unit="s", tz="UTC"),
                "stage": one.stage,
                "kind": one.kind,
                "from": one.before,
                "to": one.after,
                "why": one.why,
            }
            for one in self.decisions
        ]
        return pd.DataFrame(rows, columns=["time", "stage", "kind", "from", "to", "why"])

    def replicas(self) -> pd.DataFrame:
        """A row for each change of a stage's count: ``time, stage, wanted, ready, starting``."""
        import pandas as pd

        rows = [
            {**count.to_dict(), "at": pd.Timestamp(count.at, unit="s", tz="UTC")}
            for count in self.counts
        ]
        columns = ["at", "stage", "wanted", "ready", "starting"]
        return pd.DataFrame(rows, columns=columns).rename(columns={"at": "time"})

    def plot(self, stage: str | None = None, *, last_s: float | None = None) -> Any:
        """Arrivals, replicas wanted and ready, latency, and the decisions, on one time axis.

        Args:
            stage: of which stage; the one that changed most, by default.
            last_s: only the last seconds.
        """
        from mlkit.views.mpl.scaling import plot_scaling

        return plot_scaling(self, stage, last_s)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.decisions)) or "nothing was decided yet"

    def _repr_html_(self) -> str:
        from mlkit.views.scaling import to_html

        return to_html(self)
