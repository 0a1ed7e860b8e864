"""Layered drawing of a directed graph: where boxes and the lines between them go.

Sugiyama, Tagawa and Toda (1981): longest-path layers, long edges cut at each layer that they
cross, fewer crossings by sweeps over barycentres (a sweep is kept only where it crosses less), and
then positions as near to the neighbours' as the order allows: least squares under the distances to
be kept, solved exactly by pooling adjacent violators.

Geometry only. It knows boxes by key, size and the room they need; what is drawn in them is up to
the caller, and so is anything laid over them later (a tint, a rate, a heavier line).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx

__all__ = ["Box", "Layout", "Point", "layered"]

Key: TypeAlias = Hashable
Point: TypeAlias = tuple[float, float]
Edge: TypeAlias = tuple[Key, Key]

_SWEEPS = 12
_RELAXATIONS = 16
_STRAIGHT = 4.0  # how much more a long edge's bends want to be straight than boxes want to be near


@dataclass(frozen=True)
class Box:
    """Place of one node: centre and size in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Where everything goes, in pixels, origin at the top left.

    Attributes:
        boxes: by key.
        routes: for each edge, the points it goes through: the end of the first box, the bends,
            the start of the second.
        gaps: start and length of the room between each layer and the next, along the flow.
    """

    boxes: Mapping[Key, Box]
    routes: Mapping[Edge, tuple[Point, ...]]
    gaps: tuple[tuple[float, float], ...]
    width: float
    height: float


def layered(
    sizes: Mapping[Key, Point],
    edges: Iterable[Edge],
    *,
    down: bool = False,
    gap: float | Sequence[float] = 30.0,
    apart: float = 16.0,
    first: Iterable[Key] = (),
    last: Iterable[Key] = (),
    spare: Mapping[Key, float] | None = None,
) -> Layout:
    """Lay out an acyclic graph from left to right, or downwards.

    Args:
        sizes: width and height of each box, in the order in which equals are kept.
        edges: pairs of keys; each pair once.
        down: layers are rows instead of columns.
        gap: room between layers; one number, or one for each gap.
        apart: least room between neighbours of one layer.
        first: keys that belong into the first layer, whatever follows them.
        last: keys that belong into a layer of their own at the end.
        spare: room that a box needs below it.
    """
    spare = spare or {}
    edges = list(dict.fromkeys(edges))
    layers = _layers(sizes, edges, set(first), set(last))
    chains = _cut(edges, layers)
    order = _ordered(_by_layer(layers, chains), list(chains.values()))
    across = _across(order, chains, _extents(sizes, spare, down), apart)
    return _placed(order, chains, across, sizes, spare, gap, down)


def _layers(
    sizes: Mapping[Key, Point], edges: list[Edge], first: set[Key], last: set[Key]
) -> dict[Key, int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(sizes)
    graph.add_edges_from(edges)
    layers = {key: i for i, keys in enumerate(nx.topological_generations(graph)) for key in keys}
    if first:
        # What starts without an input starts beside what has one, not beside the inputs.
        for key in nx.topological_sort(graph):
            above = [layers[p] + 1 for p in graph.predecessors(key)]
            layers[key] = max([*above, 0 if key in first else 1])
    end = max((layers[k] for k in sizes if k not in last), default=-1) + 1
    layers.update(dict.fromkeys(last, end))
    used = {layer: i for i, layer in enumerate(sorted(set(layers.values())))}
    return {key: used[layers[key]] for key in sizes}


def _cut(edges: list[Edge], layers: Mapping[Key, int]) -> dict[Edge, list[Key]]:
    """Each edge as a chain with a bend in every layer that it crosses."""
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
    """The layers, each in an order that makes few edges cross."""
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
        for a, b in zip(chain, chain[1:], strict=False):
            before.setdefault(b, []).append(a)
            after.setdefault(a, []).append(b)
    return before, after


def _sweep(rows: list[list[Key]], near: Mapping[Key, list[Key]], *, back: bool) -> list[list[Key]]:
    swept: list[list[Key]] = []
    place: dict[Key, float] = {}
    for row in reversed(rows) if back else rows:
        # Sorting is stable: what has no neighbour on that side keeps its rank.
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
    for row, following in zip(rows, rows[1:], strict=False):
        rank = {key: i for i, key in enumerate(following)}
        ends = [rank[b] for a in row for b in sorted(after.get(a, ()), key=rank.__getitem__)]
        count += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return count


def _extents(
    sizes: Mapping[Key, Point], spare: Mapping[Key, float], down: bool
) -> dict[Key, Point]:
    """How far each box reaches before and after its middle, across the flow."""
    if down:
        return {key: (w / 2, w / 2) for key, (w, _) in sizes.items()}
    return {key: (h / 2, h / 2 + spare.get(key, 0)) for key, (_, h) in sizes.items()}


def _across(
    order: list[list[Key]],
    chains: Mapping[Edge, list[Key]],
    extents: Mapping[Key, Point],
    apart: float,
) -> dict[Key, float]:
    """Positions across the flow: close to the neighbours', at the distances to be kept."""
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
    return place


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
    return [
        extents.get(a, none)[1] + apart + extents.get(b, none)[0]
        for a, b in zip(row, row[1:], strict=False)
    ]


def _fitted(wishes: list[float], weights: list[float], distances: list[float]) -> list[float]:
    """Positions nearest to the wishes, in order and at least the distances apart.

    With the distances taken off it is isotonic regression (Ayer et al., 1955).
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


def _placed(
    order: list[list[Key]],
    chains: Mapping[Edge, list[Key]],
    across: Mapping[Key, float],
    sizes: Mapping[Key, Point],
    spare: Mapping[Key, float],
    gap: float | Sequence[float],
    down: bool,
) -> Layout:
    gaps = [gap] * max(len(order) - 1, 0) if isinstance(gap, (int, float)) else list(gap)
    extents = _extents(sizes, spare, down)
    top = min((across[k] - extents[k][0] for k in sizes), default=0.0)
    top = min([top, *(across[k] for row in order for k in row)])
    boxes: dict[Key, Box] = {}
    ends: dict[Key, tuple[Point, Point]] = {}
    rooms: list[tuple[float, float]] = []
    along = 0.0
    for i, row in enumerate(order):
        thick = max(
            (_thickness(sizes[k], spare.get(k, 0), down) for k in row if k in sizes), default=0.0
        )
        for key in row:
            middle = across[key] - top
            start, end = along, along + thick
            if key in sizes:
                own = sizes[key][1 if down else 0]
                start += 0 if down else (thick - own) / 2
                end = start + own
                boxes[key] = _box((start + end) / 2, middle, sizes[key], down)
            ends[key] = (_point(start, middle, down), _point(end, middle, down))
        if i < len(gaps):
            rooms.append((along + thick, gaps[i]))
            along += gaps[i]
        along += thick
    routes = {edge: tuple(_route(chain, ends)) for edge, chain in chains.items()}
    depth = max((across[k] - top + extents[k][1] for k in sizes), default=0.0)
    depth = max([depth, *(across[k] - top for row in order for k in row)])
    width, height = _point(along, depth, down)
    return Layout(boxes, routes, tuple(rooms), width, height)


def _thickness(size: Point, spare: float, down: bool) -> float:
    return size[1] + spare if down else size[0]


def _box(along: float, across: float, size: Point, down: bool) -> Box:
    x, y = _point(along, across, down)
    return Box(x, y, *size)


def _point(along: float, across: float, down: bool) -> Point:
    return (across, along) if down else (along, across)


def _route(chain: list[Key], ends: Mapping[Key, tuple[Point, Point]]) -> Iterable[Point]:
    yield ends[chain[0]][1]
    for bend in chain[1:-1]:
        yield from ends[bend]
    yield ends[chain[-1]][0]
