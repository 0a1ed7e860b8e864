"""Distribution of bundles on a cluster: an actor holds them, replicas fetch them.

On one machine, replicas read them from the session's folder, which other nodes do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["drop", "fetch", "keep"]

NAMESPACE = "mlkit"


class _Depot:
    """Actor that holds bundles in Ray's object store, which copies them to a node once."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def put(self, name: str, reference: list[Any]) -> None:
        """Store a reference; in a list, because Ray would pass the object itself."""
        self.kept[name] = reference[0]

    def drop(self, names: list[str]) -> None:
        """Release objects."""
        for name in names:
            self.kept.pop(name, None)

    def get(self, name: str) -> list[Any]:
        """Return the reference of an object, in a list."""
        return [self.kept[name]]


def keep(path: str) -> str:
    """Put a file into this session's depot and return its location for `fetch`.

    The depot ends with the process that created it.
    """
    import ray

    depot = f"mlkit-depot-{Path(path).parents[1].name}"
    held = _held.get(depot)
    if held is None:
        actor: Any = ray.remote(_Depot)
        held = actor.options(name=depot, namespace=NAMESPACE, num_cpus=0).remote()
        _held[depot] = held
    ray.get(held.put.remote(Path(path).name, [ray.put(Path(path).read_bytes())]))
    return f"depot:{depot}:{Path(path).name}"


def drop(locations: Sequence[str]) -> None:
    """Delete files from their depots."""
    for location in locations:
        _, depot, name = location.split(":", 2)
        _held[depot].drop.remote([name])


_held: dict[str, Any] = {}
"""Handles of this process's depots; Ray stops an actor without handles."""


def fetch(location: str) -> bytes:
    """Read a bundle from a file or a depot."""
    if not location.startswith("depot:"):
        return Path(location).read_bytes()
    import ray

    _, depot, name = location.split(":", 2)
    actor: Any = ray.get_actor(depot, namespace=NAMESPACE)
    listed: Any = ray.get(actor.get.remote(name))
    data: bytes = ray.get(listed[0])
    return data
