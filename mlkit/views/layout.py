"""Layered drawing of directed acyclic graphs.

The method of Sugiyama, Tagawa and Toda (1981): longest-path layers; dummy nodes where long edges
cross layers; barycentre sweeps to reduce crossings, of which only improvements are kept; then
coordinates near those of the neighbours: least squares under minimum distances, solved exactly by
pooling adjacent violators. Finally, chains without forks are straightened where there is room.

Geometry only: boxes have a key, a size and margins; their contents are up to the caller.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TypeAlias

import networkx as nx

__all__ = ["Layout", "NodeBox", "Point", "layered"]

Key: TypeAlias = Hashable
Point: TypeAlias = tuple[float, float]
Edge: TypeAlias = tuple[Key, Key]

_SWEEPS = 12
_RELAXATIONS = 16
_STRAIGHT = 4.0  # weight of a long edge's bends relative to boxes


@dataclass(frozen=True)
class NodeBox:
    """Centre and size of a node, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Coordinates in pixels, with the origin at the top left.

    Attributes:
        boxes: boxes by key.
        routes: points of each edge: the end of the first box, the bends, the start of the second.
        gaps: start and length of the gap between each layer and the next, along the flow.
    """

    boxes: Mapping[Key, NodeBox]
    routes: Mapping[Edge, tuple[Point, ...]]
    gaps: tuple[tuple[float, float], ...]
    width: float
    height: float


def layered(
    sizes: Mapping[Key, Point],
    edges: Iterable[Edge],
    *,
    down: bool = False,
    gaps: float | Sequence[float] = 30.0,
    apart: float = 16.0,
    first: Iterable[Key] = (),
    last: Iterable[Key] = (),
    below: Mapping[Key, float] | None = None,
) -> Layout:
    """Lay out an acyclic graph from left to right, or from top to bottom.

    Args:
        sizes: minimum width and height of each box; ties are kept in this order. Along the flow,
            all boxes of a layer get the length of the longest.
        edges: pairs of keys, without duplicates.
        down: whether layers are rows instead of columns.
        gaps: distance between layers; one number, or one per gap.
        apart: minimum distance between neighbours in a layer.
        first: keys to put into the first layer.
        last: keys to put into a separate last layer.
        below: margin below each box, if the flow goes to the right.
    """
    edges = list(dict.fromkeys(edges))
    layers = _layers(sizes, edges, set(first), set(last))
    chains = _cut(edges, layers)
    order = _ordered(_by_layer(layers, chains), list(chains.values()))
    # From here on coordinates are (along the flow, across it); `_turned` converts back.
    flat = {key: _turned(size, down) for key, size in sizes.items()}
    extents = {key: (a / 2, a / 2 + (below or {}).get(key, 0)) for key, (_, a) in flat.items()}
    across = _across(order, chains, extents, apart)
    bands = _bands(order, flat, gaps)
    return _placed(order, chains, across, extents, bands, flat, down)


def _layers(
    sizes: Mapping[Key, Point], edges: list[Edge], first: set[Key], last: set[Key]
) -> dict[Key, int]:
    graph: nx.DiGraph[Key] = nx.DiGraph()
    graph.add_nodes_from(sizes)
    graph.add_edges_from(edges)
    layers = {key: i for i, keys in enumerate(nx.topological_generations(graph)) for key in keys}
    if first:
        # Nodes without predecessors go beside those with one, not beside the inputs.
        for key in nx.topological_sort(graph):
            above = [layers[p] + 1 for p in graph.predecessors(key)]
            layers[key] = max([*above, 0 if key in first else 1])
    end = max((layers[k] for k in sizes if k not in last), default=-1) + 1
    layers.update(dict.fromkeys(last, end))
    used = {layer: i for i, layer in enumerate(sorted(set(layers.values())))}
    return {key: used[layers[key]] for key in sizes}


def _cut(edges: list[Edge], layers: Mapping[Key, int]) -> dict[Edge, list[Key]]:
    """Split each edge into a chain with a bend in every layer that it crosses."""
    return {
        (a, b): [a, *(("bend", a, b, i) for i in range(layers[a] + 1, layers[b])), b]
        for a, b in edges
    }


def _by_layer(layers: Mapping[Key, int], chains: Mapping[Edge, list[Key]]) -> list[list[Key]]:
    rows: list[list[Key]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for key, layer in layers.items():
        rows[layer].append(key)
    for (a, _), chain in chains.items():
        for i, bend in enumerate(chain[1:-1], layers[a] + 1):
            rows[i].append(bend)
    return rows


def _ordered(rows: list[list[Key]], chains: list[list[Key]]) -> list[list[Key]]:
    """Order the layers so that few edges cross."""
    before, after = _neighbours(chains)
    best, fewest = rows, _crossings(rows, after)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        rows = _sweep(rows, after, back=True) if sweep % 2 else _sweep(rows, before, back=False)
        crossings = _crossings(rows, after)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _neighbours(chains: list[list[Key]]) -> tuple[dict[Key, list[Key]], dict[Key, list[Key]]]:
    before: dict[Key, list[Key]] = {}
    after: dict[Key, list[Key]] = {}
    for chain in chains:
        for a, b in pairwise(chain):
            before.setdefault(b, []).append(a)
            after.setdefault(a, []).append(b)
    return before, after


def _sweep(rows: list[list[Key]], near: Mapping[Key, list[Key]], *, back: bool) -> list[list[Key]]:
    swept: list[list[Key]] = []
    place: dict[Key, float] = {}
    for row in reversed(rows) if back else rows:
        # Keys without a neighbour on that side keep their rank.
        wish = {
            key: sum(place[n] for n in near[key]) / len(near[key]) if key in near else rank
            for rank, key in enumerate(row)
        }
        row = sorted(row, key=wish.__getitem__)
        place.update({key: float(rank) for rank, key in enumerate(row)})
        swept.append(row)
    return swept[::-1] if back else swept


def _crossings(rows: list[list[Key]], after: Mapping[Key, list[Key]]) -> int:
    count = 0
    for row, following in pairwise(rows):
        rank = {key: i for i, key in enumerate(following)}
        ends = [rank[b] for a in row for b in sorted(after.get(a, ()), key=rank.__getitem__)]
        count += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return count


def _across(
    order: list[list[Key]],
    chains: Mapping[Edge, list[Key]],
    extents: Mapping[Key, Point],
    apart: float,
) -> dict[Key, float]:
    """Compute positions across the flow, near the neighbours' and at minimum distances."""
    before, after = _neighbours(list(chains.values()))
    steps = [_distances(row, extents, apart) for row in order]
    place: dict[Key, float] = {}
    for row, distances in zip(order, steps, strict=True):
        middle = sum(distances) / 2
        place.update({k: sum(distances[:i]) - middle for i, k in enumerate(row)})
    for turn in range(_RELAXATIONS):
        rows = list(zip(order, steps, strict=True))
        for row, distances in reversed(rows) if turn % 2 else rows:
            wishes = [_wish(key, place, before, after) for key in row]
            weights = [1.0 if key in extents else _STRAIGHT for key in row]
            place.update(zip(row, _fitted(wishes, weights, distances), strict=True))
    for run in _runs(before, after) * 2:
        _straighten(run, place, order, steps)
    return place


def _runs(before: Mapping[Key, list[Key]], after: Mapping[Key, list[Key]]) -> list[list[Key]]:
    """Find maximal chains of keys without a fork or a join."""
    only = {a: bs[0] for a, bs in after.items() if len(bs) == 1 and len(before[bs[0]]) == 1}
    runs = []
    for start in only.keys() - set(only.values()):
        run = [start]
        while run[-1] in only:
            run.append(only[run[-1]])
        runs.append(run)
    return sorted(runs, key=lambda run: (-len(run), str(run[0])))


def _straighten(
    run: list[Key],
    place: dict[Key, float],
    order: list[list[Key]],
    steps: list[list[float]],
) -> None:
    """Put a run's keys on one line, or on as few as their neighbours leave room for."""
    rooms = [_leeway(key, place, order, steps) for key in run]
    while run:
        low, high, count = -inf, inf, 0
        for lowest, highest in rooms:
            if max(low, lowest) > min(high, highest):
                break
            low, high, count = max(low, lowest), min(high, highest), count + 1
        middle = sum(place[key] for key in run[:count]) / count
        place.update(dict.fromkeys(run[:count], min(max(middle, low), high)))
        run, rooms = run[count:], rooms[count:]


def _leeway(
    key: Key, place: Mapping[Key, float], order: list[list[Key]], steps: list[list[float]]
) -> Point:
    """The range in which a key keeps its distance to the neighbours in its layer."""
    row, distances = next(pair for pair in zip(order, steps, strict=True) if key in pair[0])
    i = row.index(key)
    low = place[row[i - 1]] + distances[i - 1] if i else -inf
    high = place[row[i + 1]] - distances[i] if i + 1 < len(row) else inf
    return min(low, place[key]), max(high, place[key])


def _wish(
    key: Key,
    place: Mapping[Key, float],
    before: Mapping[Key, list[Key]],
    after: Mapping[Key, list[Key]],
) -> float:
    near = [place[n] for n in (*before.get(key, ()), *after.get(key, ()))]
    return sum(near) / len(near) if near else place[key]


def _distances(row: list[Key], extents: Mapping[Key, Point], apart: float) -> list[float]:
    none = (0.0, 0.0)
    return [extents.get(a, none)[1] + apart + extents.get(b, none)[0] for a, b in pairwise(row)]


def _fitted(wishes: list[float], weights: list[float], distances: list[float]) -> list[float]:
    """Positions nearest to the preferred ones, in order and at minimum distances.

    With the distances subtracted this is isotonic regression (Ayer et al., 1955).
    """
    offsets = [sum(distances[:i]) for i in range(len(wishes))]
    pools: list[tuple[float, float, int]] = []
    for wish, offset, weight in zip(wishes, offsets, weights, strict=True):
        pool = (wish - offset, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            mean, mass, count = pools.pop()
            total = mass + pool[1]
            pool = ((mean * mass + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    levels = [mean for mean, _, count in pools for _ in range(count)]
    return [level + offset for level, offset in zip(levels, offsets, strict=True)]


def _bands(
    order: list[list[Key]], flat: Mapping[Key, Point], gaps: float | Sequence[float]
) -> list[Point]:
    """Start and end of each layer along the flow."""
    if not order:
        return []
    count = len(order) - 1
    rooms = [gaps] * count if isinstance(gaps, (int, float)) else list(gaps)
    bands: list[Point] = []
    for row, room in zip(order, [0.0, *rooms], strict=True):
        start = bands[-1][1] + room if bands else 0.0
        bands.append((start, start + max(flat[key][0] for key in row if key in flat)))
    return bands


def _placed(
    order: list[list[Key]],
    chains: Mapping[Edge, list[Key]],
    across: Mapping[Key, float],
    extents: Mapping[Key, Point],
    bands: list[Point],
    flat: Mapping[Key, Point],
    down: bool,
) -> Layout:
    none = (0.0, 0.0)
    top = min((across[key] - extents.get(key, none)[0] for key in across), default=0.0)
    bottom = max((across[key] + extents.get(key, none)[1] for key in across), default=0.0)
    boxes: dict[Key, NodeBox] = {}
    ends: dict[Key, tuple[Point, Point]] = {}
    for row, (start, end) in zip(order, bands, strict=True):
        for key in row:
            middle = across[key] - top
            ends[key] = (_turned((start, middle), down), _turned((end, middle), down))
            if key in flat:
                centre = _turned(((start + end) / 2, middle), down)
                boxes[key] = NodeBox(*centre, *_turned((end - start, flat[key][1]), down))
    routes = {edge: tuple(_route(chain, ends)) for edge, chain in chains.items()}
    rooms = tuple((a[1], b[0] - a[1]) for a, b in pairwise(bands))
    return Layout(
        boxes, routes, rooms, *_turned((bands[-1][1] if bands else 0.0, bottom - top), down)
    )


def _turned(point: Point, down: bool) -> Point:
    return point[::-1] if down else point


def _route(chain: list[Key], ends: Mapping[Key, tuple[Point, Point]]) -> Iterable[Point]:
    yield ends[chain[0]][1]
    for bend in chain[1:-1]:
        yield from ends[bend]
    yield ends[chain[-1]][0]
