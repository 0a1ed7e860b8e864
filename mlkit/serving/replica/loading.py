"""Loading of bundles into a replica, which keeps the resources of earlier versions."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlkit.define.graph import Graph
from mlkit.define.resource import Resource
from mlkit.define.step import Step
from mlkit.execute import Program, compile_graph
from mlkit.serving.bundle import Bundle, unpack, unpack_resource

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
    """Loads bundles, and reuses resources of the same digest until no version uses them.

    Args:
        fetch: returns the data published at a location.
    """

    def __init__(self, fetch: Callable[[str], memoryview]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._in_use: list[dict[str, Resource[Any]]] = []

    async def load(
        self,
        bundle: str,
        prepare: Prepare = lambda graphs: None,
        sizes: Mapping[str, int] | None = None,
        replaced: Mapping[str, Sequence[str]] | None = None,
    ) -> Loaded:
        """Load a bundle, in a thread.

        Args:
            bundle: its path, or its location in a depot.
            prepare: called with the graphs before they are compiled.
            sizes: overrides of ``max_batch_size``, by step.
            replaced: location and digest of resources that take the place of those in the bundle,
                by ``graph.node.keyword``.

        Raises:
            DefinitionError: a resource is not of the type that its step declares.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(
            self._load, bundle, prepare, sizes or {}, replaced or {}, loop
        )

    def _load(
        self,
        bundle: str,
        prepare: Prepare,
        sizes: Mapping[str, int],
        replaced: Mapping[str, Sequence[str]],
        loop: asyncio.AbstractEventLoop,
    ) -> Loaded:
        unpacked = unpack(self._fetch(bundle))
        steps = self._replace(unpacked, replaced)
        used = self._use(unpacked)
        try:
            prepare(unpacked.graphs)
            programs = {
                name: compile_graph(graph, loop=loop).resized(sizes)
                for name, graph in unpacked.graphs.items()
            }
            for step, keyword in steps:
                step.check_resource(keyword, step.resources[keyword].get(loop))
        except BaseException:
            self._free(used)
            raise
        return Loaded(programs, used, unpacked.application)

    def _replace(
        self, bundle: Bundle, replaced: Mapping[str, Sequence[str]]
    ) -> list[tuple[Step[..., Any], str]]:
        """Replace resources of a bundle; return the steps that have them, with the keyword.

        The steps are copied: one of an installed module is the same object in every bundle.
        """
        resources = {
            location: unpack_resource(self._fetch(location)) for location, _ in replaced.values()
        }
        own: dict[int, dict[str, Resource[Any]]] = {}
        for key, (location, digest) in replaced.items():
            graph, name, keyword = key.rsplit(".", 2)
            step = bundle.graphs[graph][name].step
            own.setdefault(id(step), {})[keyword] = resources[location]
            bundle.resources[key] = digest
        copies: dict[int, Step[..., Any]] = {}
        for node in (node for graph in bundle.graphs.values() for node in graph):
            old = id(node.step)
            if old in own:
                if old not in copies:
                    copies[old] = node.step.with_resources(own[old])
                object.__setattr__(node, "step", copies[old])  # no other version has it yet
        return [(copies[old], keyword) for old, keywords in own.items() for keyword in keywords]

    def _use(self, bundle: Bundle) -> dict[str, Resource[Any]]:
        """Have the steps of a bundle use the resources that are loaded already."""
        used: dict[str, Resource[Any]] = {}
        with self._lock:
            loaded = {digest: r for version in self._in_use for digest, r in version.items()}
            for key, graph in bundle.graphs.items():
                for node in graph:
                    resources = node.step.resources
                    for name, new in resources.items():
                        digest = bundle.resources[f"{key}.{node.name}.{name}"]
                        used[digest] = loaded.get(digest) or used.get(digest) or new
                        resources[name] = used[digest]
            self._in_use.append(used)
        return used

    async def free(self, version: Loaded) -> None:
        """Close the resources of a version that has ended, but for those that others use."""
        await asyncio.to_thread(self._free, version.resources)

    async def close(self) -> None:
        """Close the resources of all versions."""
        for version in list(self._in_use):
            await asyncio.to_thread(self._free, version)

    def _free(self, used: Mapping[str, Resource[Any]]) -> None:
        with self._lock:
            self._in_use = [version for version in self._in_use if version is not used]
            others = {id(r) for version in self._in_use for r in version.values()}
        for resource in used.values():
            if id(resource) not in others:
                resource.close()


COLLECT_AFTER = 10_000
"""Threshold of the garbage collector's youngest generation, in objects; Python's default is 700.

The requests in flight hold thousands of objects; scanning them at the default threshold takes 7% of
the event loop's time per request.
"""


def settle(*, everything: bool = True) -> None:
    """Exempt everything that is loaded from garbage collection: it stays.

    Args:
        everything: whether to collect, too, what was exempted before and is no longer used. This
            stops the process for a tenth of a second and more.
    """
    if everything:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
