"""Bundles on a cluster: kept by one actor, fetched once by each process that needs them.

On one machine replicas read them from the session's folder; another node does not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["drop", "fetch", "keep"]

NAMESPACE = "mlkit"


class _Depot:
    """Holds bundles by name, as objects that Ray copies to a node once."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def put(self, name: str, held: list[Any]) -> None:
        """Keep one; the list keeps Ray from passing the object itself."""
        self.kept[name] = held[0]

    def drop(self, names: list[str]) -> None:
        """Forget some."""
        for name in names:
            self.kept.pop(name, None)

    def get(self, name: str) -> list[Any]:
        """The object of that name."""
        return [self.kept[name]]


def keep(path: str) -> str:
    """Put a file into this session's depot; the name that `fetch` takes.

    The depot ends with the process that made it.
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
    """Have their depots forget what `keep` put there."""
    for location in locations:
        _, depot, name = location.split(":", 2)
        _held[depot].drop.remote([name])


_held: dict[str, Any] = {}
"""Handles of this process's depots: an actor that nobody holds is ended."""


def fetch(bundle: str) -> bytes:
    """The bundle at a path, or in a depot."""
    if not bundle.startswith("depot:"):
        return Path(bundle).read_bytes()
    import ray

    _, depot, name = bundle.split(":", 2)
    actor: Any = ray.get_actor(depot, namespace=NAMESPACE)
    listed: Any = ray.get(actor.get.remote(name))
    data: bytes = ray.get(listed[0])
    return data
