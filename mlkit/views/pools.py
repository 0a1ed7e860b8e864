"""Pools of models as bars: a budget each, and the models in memory as its segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlkit.metrics.pools import ObservedPool, Pools
from mlkit.views.measure import columns, pixels
from mlkit.views.templating import render, stylesheet

__all__ = ["BAR_WIDTH", "PoolRow", "pool_lines", "pool_rows", "to_html", "to_text"]

BAR_WIDTH = 1000.0
"""Width of the longest bar, in units of its SVG."""
MAX_ROWS = 12
MAX_NAMES = 5
MAX_SEGMENTS = 30
"""Number of models with a segment of their own; the rest share one."""
_HEAD = ("pool", "used", "hit rate", "loads", "evictions")


@dataclass(frozen=True)
class PoolRow:
    """Formatted figures of a pool, and its bar.

    Attributes:
        used: size of the models in memory and the budget.
        models: the models in memory, the last used first.
        bar: width of the budget.
        paths: segments by state, as the data of an SVG path.
    """

    name: str
    used: str
    hit_rate: str
    loads: str
    evictions: str
    models: str
    bar: float
    paths: tuple[tuple[str, str], ...]


def pool_rows(pools: Pools) -> tuple[PoolRow, ...]:
    """Format the pools with the largest budgets, all bars to one scale."""
    shown = sorted(pools, key=lambda pool: -pool.budget_bytes)[:MAX_ROWS]
    scale = BAR_WIDTH / max((pool.budget_bytes for pool in shown), default=1)
    return tuple(_row(pool, pools, scale) for pool in pools if pool in shown)


def _row(pool: ObservedPool, pools: Pools, scale: float) -> PoolRow:
    return PoolRow(
        name=_name(pool, pools),
        used=f"{_size(pool.bytes)} of {_size(pool.budget_bytes)}",
        hit_rate="–" if pool.hit_rate is None else f"{pool.hit_rate:.1%}",
        loads=f"{pool.loads:,}",
        evictions=f"{pool.evictions:,}",
        models=_models(pool),
        bar=pixels(pool.budget_bytes * scale),
        paths=tuple(_paths(pool, scale)),
    )


def _name(pool: ObservedPool, pools: Pools) -> str:
    """The stage; app, replica and number of the pool only where there are several."""
    apps = {each.app for each in pools}
    replicas = {each.replica for each in pools if (each.app, each.stage) == (pool.app, pool.stage)}
    several = Counter(each.replica for each in pools)[pool.replica] > 1
    parts = [pool.app] if len(apps) > 1 and pool.app != pool.stage else []
    parts += [pool.stage, *([pool.replica] if len(replicas) > 1 else [])]
    return " · ".join([*parts, *([f"pool {pool.number}"] if several else [])])


def _models(pool: ObservedPool) -> str:
    if not pool.models:
        return "no model in memory"
    names = [
        f"{id} {_size(size)}{'' if state == 'resident' else f' {state}'}"
        for id, size, state in pool.models[:MAX_NAMES]
    ]
    rest = max(pool.resident, len(pool.models)) - len(names)
    return " · ".join([*names, *([f"{rest} more"] if rest > 0 else [])])


def _paths(pool: ObservedPool, scale: float) -> Iterator[tuple[str, str]]:
    """Segments from left to right: pinned, in memory, being loaded."""
    listed = pool.models[:MAX_SEGMENTS]
    rest = pool.bytes - sum(size for _, size, _ in listed)
    sizes = [(state, size) for _, size, state in listed] + [("resident", rest)]
    x = 0.0
    for kind in ("pinned", "resident", "loading"):
        data = ""
        for size in (size for state, size in sizes if state == kind and size > 0):
            data += f"M{pixels(x)},1V15H{pixels(x + size * scale)}V1Z"
            x += size * scale
        if data:
            yield kind, data


def _size(size: int) -> str:
    """Format a size: 52 kB, 5.2 MB, 1.2 GB."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * bytes_each:
            value = size / bytes_each
            return f"{value:.{0 if value >= 9.95 else 1}f} {unit}"
    return f"{size} B"


def pool_lines(rows: Sequence[PoolRow]) -> list[str]:
    """Render as text: two lines for each pool."""
    table = [(row.name, row.used, row.hit_rate, row.loads, row.evictions) for row in rows]
    head, *figures = columns([_HEAD, *table], 1)
    names = (f"  {row.models}" for row in rows)
    return [head, *(line for pair in zip(figures, names, strict=True) for line in pair)]


def to_text(pools: Pools) -> str:
    """Render as text."""
    if not pools:
        return "no pool of models yet: a step uses one with resource(open_pool)"
    return "\n".join(pool_lines(pool_rows(pools)))


def to_html(pools: Pools) -> str:
    """Render as HTML."""
    rows = pool_rows(pools)
    return render("pools.html.j2", rows=rows, style=stylesheet("live.css.j2"), text=to_text(pools))
