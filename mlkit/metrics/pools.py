"""Pools of models: what those of a process report with its metrics, and those of an app."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ObservedPool", "Pools", "Reporting", "forget_models", "observe_pool", "pool_reports"]

SHOWN_MODELS = 100
"""Number of models that a report lists, the last used first."""


class Reporting(Protocol):
    """A pool of models."""

    def report(self, most: int) -> Mapping[str, Any]:
        """Counts since it was made, readings, and ``models``, at most ``most`` of them."""


_pools: weakref.WeakValueDictionary[int, Reporting] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_lock = threading.Lock()


def observe_pool(pool: Reporting) -> None:
    """Include a pool while it exists."""
    with _lock:
        _pools[next(_numbers)] = pool


def pool_reports() -> list[dict[str, Any]]:
    """Reports of all pools in this process, the oldest first."""
    with _lock:
        pools = sorted(_pools.items())
    return [dict(pool.report(SHOWN_MODELS)) for _, pool in pools]


def forget_models(delta: Mapping[str, Any]) -> None:
    """Drop the models from a delta that a later one follows: only counts have a history."""
    for pool in delta.get("pools", ()):
        pool.pop("models", None)


@dataclass(frozen=True, kw_only=True)
class ObservedPool:
    """The last report of a pool in a replica.

    Attributes:
        stage: the stage of the replica.
        replica: its id, as in ``GET /metrics``.
        number: 1 for the first pool of the replica.
        models: id, size in bytes, and state ("resident", "pinned" or "loading") of those in memory,
            the last used first; at most `SHOWN_MODELS`.
        resident: number of models in memory.
        bytes: size of the models in memory, and of those that are being loaded.
        budget_bytes: memory that models may take.
        hits: uses of a model that was in memory.
        loads: models loaded.
        evictions: models dropped to make room.
        failed: loadings that failed.
    """

    app: str
    stage: str
    replica: str
    number: int
    models: tuple[tuple[str, int, str], ...]
    resident: int
    bytes: int
    budget_bytes: int
    hits: int
    loads: int
    evictions: int
    failed: int

    @property
    def hit_rate(self) -> float | None:
        """Share of the uses for which no model was loaded; None before the first."""
        uses = self.hits + self.loads + self.failed
        return self.hits / uses if uses else None


class Pools(tuple[ObservedPool, ...]):
    """Pools of models in the replicas of an app, as last reported; displayed as bars.

    The length of a bar is the budget, and its segments are the models in memory, all to one scale.
    ``app.pools + other.pools`` shows those of two apps.
    """

    @classmethod
    def of(cls, app: str, deltas: Iterable[Mapping[str, Any]]) -> Pools:
        """The pools in the last delta of each process of an app, by stage."""
        return cls(
            ObservedPool(
                app=app,
                stage=delta["stage"],
                replica=delta["process"],
                number=number,
                models=tuple((id, size, state) for id, size, state in pool.get("models", ())),
                **{name: count for name, count in pool.items() if name != "models"},
            )
            for delta in sorted(deltas, key=lambda delta: (delta["stage"], delta["process"]))
            for number, pool in enumerate(delta.get("pools", ()), 1)
        )

    def __add__(self, other: Iterable[Any]) -> Pools:
        return Pools((*self, *other))

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each pool: its counts, bytes, budget and hit rate."""
        import pandas as pd

        columns = ["app", "stage", "replica", "pool"]
        counts = ["resident", "bytes", "budget_bytes", "hit_rate", "hits", "loads", "evictions"]
        rows = [
            (*_place(pool), *(getattr(pool, name) for name in (*counts, "failed"))) for pool in self
        ]
        return pd.DataFrame(rows, columns=[*columns, *counts, "failed"]).astype({"hit_rate": float})

    def models(self) -> pd.DataFrame:
        """Return a row for each model in memory: where it is, its size, and its state."""
        import pandas as pd

        rows = [(*_place(pool), *model) for pool in self for model in pool.models]
        columns = ["app", "stage", "replica", "pool", "model", "bytes", "state"]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        from mlkit.views.pools import to_text

        return to_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from mlkit.views.pools import to_html

        return to_html(self)


def _place(pool: ObservedPool) -> Iterator[str | int]:
    return iter((pool.app, pool.stage, pool.replica, pool.number))
