"""Distribution of bundles on a cluster: an actor holds them, replicas fetch them.

On one machine, replicas read them from the session's folder, which other nodes do not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.define import packing

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
    # As an array: Ray returns it without a copy, from memory that the processes of a node share.
    stored = ray.put(np.fromfile(path, np.uint8))
    ray.get(held.put.remote(Path(path).name, [stored]))
    return f"depot:{depot}:{Path(path).name}"


def drop(locations: Sequence[str]) -> None:
    """Delete files from their depots."""
    for location in locations:
        _, depot, name = location.split(":", 2)
        _held[depot].drop.remote([name])


_held: dict[str, Any] = {}
"""Handles of this process's depots; Ray stops an actor without handles."""


def fetch(location: str) -> memoryview:
    """Return a bundle from a file or a depot, in memory that the processes of a node share."""
    if not location.startswith("depot:"):
        return packing.from_file(location)
    import ray

    _, depot, name = location.split(":", 2)
    actor: Any = ray.get_actor(depot, namespace=NAMESPACE)
    listed: Any = ray.get(actor.get.remote(name))
    data: Any = ray.get(listed[0])
    return memoryview(data)
