"""The scaling history of an app: decisions, and numbers of replicas wanted and ready."""

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
    """Numbers of replicas of a stage at one moment, from Ray Serve.

    Attributes:
        at: seconds since the epoch.
        wanted: target number.
        ready: replicas that accept requests.
        starting: replicas that are starting, placed or not.
    """

    at: float
    stage: str
    wanted: int
    ready: int
    starting: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


class ScalingLog:
    """Decisions and counts of an app, numbered on arrival; the oldest are dropped."""

    def __init__(self) -> None:
        self.last = 0
        self._decisions: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOST_DECISIONS)
        self._counts: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MOST_COUNTS)

    def push(
        self, decisions: Iterable[dict[str, Any]] = (), counts: Iterable[dict[str, Any]] = ()
    ) -> None:
        """Append decisions and counts, as plain data."""
        for log, entries in ((self._decisions, decisions), (self._counts, counts)):
            for entry in entries:
                self.last += 1
                log.append((self.last, entry))

    def since(self, number: int) -> dict[str, Any]:
        """Entries after `number`, and the number of the latest.

        A number above the latest is from before this was restarted: then all entries are returned.
        """
        number = number if number <= self.last else 0
        return {
            "last": self.last,
            "decisions": [entry for n, entry in self._decisions if n > number],
            "counts": [entry for n, entry in self._counts if n > number],
        }


class Scaling:
    """Decisions and counts of an app, as read by its kernel.

    Its repr lists the decisions; `to_frame` returns them as a DataFrame, and `plot` draws them over
    time with arrivals and latency.

    Attributes:
        decisions: the oldest first.
        counts: one per change, the oldest first.
    """

    def __init__(self, history: Any = None) -> None:
        self.decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self.counts: deque[Count] = deque(maxlen=MOST_COUNTS)
        self.history = history

    def add(self, entries: dict[str, Any]) -> None:
        """Add entries from `ScalingLog.since`."""
        # Decisions come from several processes, and may arrive out of order.
        decisions = sorted((Decision(**d) for d in entries["decisions"]), key=lambda d: d.at)
        self.decisions.extend(decisions)
        self.counts.extend(Count(**count) for count in entries["counts"])

    @property
    def stages(self) -> list[str]:
        """Stages with counts, in order of their first count."""
        return list(dict.fromkeys(count.stage for count in self.counts))

    def latest(self) -> dict[str, Count]:
        """The latest count of each stage."""
        return {count.stage: count for count in self.counts}

    def to_frame(self) -> pd.DataFrame:
        """A row per decision: ``time, stage, kind, from, to, why``."""
        import pandas as pd

        rows = [
            (pd.Timestamp(d.at, unit="s", tz="UTC"), d.stage, d.kind, d.before, d.after, d.why)
            for d in self.decisions
        ]
        return pd.DataFrame(rows, columns=["time", "stage", "kind", "from", "to", "why"])

    def replicas(self) -> pd.DataFrame:
        """A row per change of a stage's count: ``time, stage, wanted, ready, starting``."""
        import pandas as pd

        rows = [
            {**count.to_dict(), "at": pd.Timestamp(count.at, unit="s", tz="UTC")}
            for count in self.counts
        ]
        columns = ["at", "stage", "wanted", "ready", "starting"]
        return pd.DataFrame(rows, columns=columns).rename(columns={"at": "time"})

    def plot(self, stage: str | None = None, *, last_s: float | None = None) -> Any:
        """Plot arrivals, replicas wanted and ready, latency, and the decisions over time.

        Args:
            stage: name of a stage; by default the one with most changes.
            last_s: length of the plotted period in seconds; all that is kept by default.
        """
        from mlkit.views.mpl.scaling import plot_scaling

        return plot_scaling(self, stage, last_s)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.decisions)) or "nothing was decided yet"

    def _repr_html_(self) -> str:
        from mlkit.views.scaling import to_html

        return to_html(self)
