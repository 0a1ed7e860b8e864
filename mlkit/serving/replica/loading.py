"""From a bundle to graphs that are ready to run, in a replica that may have run others before."""

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
    """A bundle that is ready.

    Attributes:
        resources: those of its steps, by digest.
        built: digests of those that had to be built for it.
        application: the user's own FastAPI application, pickled.
    """

    graphs: dict[str, Graph]
    programs: dict[str, Program]
    resources: dict[str, Resource[Any]]
    built: frozenset[str]
    application: bytes | None = None


class Loader:
    """Loads bundles; a resource whose digest is known is taken as it is.

    Args:
        fetch: returns what was published at a location.
    """

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._known: dict[str, Resource[Any]] = {}

    async def load(
        self,
        bundle: str,
        prepare: Prepare = lambda graphs: None,
        sizes: Mapping[str, int] | None = None,
    ) -> Loaded:
        """Load one.

        Args:
            bundle: its path, or its place in a depot.
            prepare: is given the graphs before they are compiled.
            sizes: most items of a batch, by step, where they differ from the steps' own.
        """
        return await asyncio.to_thread(self._load, bundle, prepare, sizes or {})

    def _load(self, bundle: str, prepare: Prepare, sizes: Mapping[str, int]) -> Loaded:
        unpacked = unpack(self._fetch(bundle))
        used: dict[str, Resource[Any]] = {}
        for key, graph in unpacked.graphs.items():
            for node in graph:
                for name in node.step.resources:
                    digest = unpacked.resources[f"{key}.{node.name}.{name}"]
                    one = self._known.get(digest) or used.get(digest) or node.step.resources[name]
                    used[digest] = node.step.resources[name] = one
        built = frozenset(digest for digest, one in used.items() if not one.built)
        prepare(unpacked.graphs)
        programs = {
            name: compile_graph(graph).resized(sizes) for name, graph in unpacked.graphs.items()
        }
        return Loaded(unpacked.graphs, programs, used, built, unpacked.application)

    def keep(self, *wanted: Loaded) -> None:
        """Remember the resources of these only; what else was built can go."""
        self._known = {digest: r for loaded in wanted for digest, r in loaded.resources.items()}


COLLECT_AFTER = 10_000
"""Objects that may have come before the collector looks among them; Python's own default is 700.

The requests in flight hold some thousands, and looking through those takes 7% of what the loop does
for a request.
"""


def settle() -> None:
    """Have the collector pass over what is there now: it was loaded to stay."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
