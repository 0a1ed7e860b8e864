"""Loading of bundles into a replica, which keeps the resources of earlier versions."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlkit.define.graph import Graph
from mlkit.define.resource import Resource
from mlkit.execute import Program, compile_graph
from mlkit.serving.bundle import unpack

__all__ = ["Loaded", "Loader", "settle"]

Prepare: TypeAlias = Callable[[Mapping[str, Graph]], None]


@dataclass(frozen=True)
class Loaded:
    """The contents of a bundle, ready to run.

    Attributes:
        programs: compiled graphs by name.
        resources: resources of its steps, by digest.
        application: the user's own FastAPI application, pickled.
    """

    programs: dict[str, Program]
    resources: dict[str, Resource[Any]]
    application: bytes | None = None


class Loader:
    """Loads bundles, and reuses resources of the same digest.

    Args:
        fetch: returns the data published at a location.
    """

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._kept: dict[str, Resource[Any]] = {}

    async def load(
        self,
        bundle: str,
        prepare: Prepare = lambda graphs: None,
        sizes: Mapping[str, int] | None = None,
    ) -> Loaded:
        """Load a bundle, in a thread.

        Args:
            bundle: its path, or its location in a depot.
            prepare: called with the graphs before they are compiled.
            sizes: overrides of ``max_batch_size``, by step.
        """
        return await asyncio.to_thread(self._load, bundle, prepare, sizes or {})

    def _load(self, bundle: str, prepare: Prepare, sizes: Mapping[str, int]) -> Loaded:
        unpacked = unpack(self._fetch(bundle))
        used: dict[str, Resource[Any]] = {}
        for key, graph in unpacked.graphs.items():
            for node in graph:
                resources = node.step.resources
                for name, new in resources.items():
                    digest = unpacked.resources[f"{key}.{node.name}.{name}"]
                    used[digest] = self._kept.get(digest) or used.get(digest) or new
                    resources[name] = used[digest]
        prepare(unpacked.graphs)
        programs = {
            name: compile_graph(graph).resized(sizes) for name, graph in unpacked.graphs.items()
        }
        return Loaded(programs, used, unpacked.application)

    def keep(self, *versions: Loaded) -> None:
        """Keep the resources of these versions only; the others can be freed."""
        self._kept = {digest: r for loaded in versions for digest, r in loaded.resources.items()}


COLLECT_AFTER = 10_000
"""Threshold of the garbage collector's youngest generation, in objects; Python's default is 700.

The requests in flight hold thousands of objects; scanning them at the default threshold takes 7% of
the event loop's time per request.
"""


def settle() -> None:
    """Exempt everything loaded so far from garbage collection; it is there to stay."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
