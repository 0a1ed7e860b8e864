"""Failed and slow requests that can be run again in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mlkit.define.graph import Graph, Node, resolver
from mlkit.define.resource import Resource
from mlkit.errors import InputError, StepError, entry_point
from mlkit.execute import Executor, Run, compile_graph
from mlkit.execute.execution import Execution
from mlkit.metrics import Trace
from mlkit.plan import Plan, RemoteStep
from mlkit.serving.http.problem import Failure
from mlkit.serving.replica.kept import InputsOf, read_inputs

__all__ = ["FailedRequest", "Reproduction", "SlowRequest"]

Replaced = Callable[[str], Mapping[str, Resource[Any]]]
"""Returns the resources of a node that were replaced since the deployment, by keyword."""


@dataclass(frozen=True)
class Reproduction:
    """Runs requests of an app again, with its code, models and configuration.

    Attributes:
        folder: where the replicas keep inputs.
        plan: the plan of the app.
        replaced: its resources that were swapped or updated.
    """

    folder: Path
    plan: Plan
    replaced: Replaced

    def failed(self, failure: Failure) -> FailedRequest:
        """Return a failure that can be reproduced."""
        return FailedRequest(**_fields(failure), reproduction=self)

    def slow(self, trace: Trace) -> SlowRequest:
        """Return a trace that can be reproduced."""
        return SlowRequest(**_fields(trace), reproduction=self)

    def step(self, id: str) -> Any:
        """Run the step that failed; see `FailedRequest.reproduce`."""
        inputs = self._inputs(id)
        graph = self.plan.cut.front
        node = self._node(graph, inputs.node)
        if not isinstance(node.step, RemoteStep):
            return self._call(node, inputs.arguments, inputs.results, inputs.item)
        segment = next(s.graph for s in self.plan.cut.segments if s.name == node.name)
        passed = _values(node, inputs.arguments, inputs.results)
        if inputs.item is not None and node.each is not None:
            passed[node.each] = list(passed[node.each])[inputs.item]
        run = self._run(segment, passed)
        if not isinstance(run.error, StepError):
            return run.value
        results = {other.name: other.value for other in run.nodes}
        inner = self._node(segment, run.error.step)
        return self._call(inner, run.arguments, results, None)

    def request(self, id: str) -> Run:
        """Run a slow request; see `SlowRequest.reproduce`."""
        return self._run(self.plan.graph, self._inputs(id).arguments)

    def _inputs(self, id: str) -> InputsOf:
        inputs = read_inputs(self.folder, self.plan.graph.name, id)
        if inputs is None:
            raise InputError(
                "the inputs of this request were not kept",
                where=f"app {self.plan.graph.name!r}",
                expected="one of the last failures, or of the slowest requests, with inputs of "
                "less than 4 MiB",
                fix="deploy without keep_inputs=False, and send it again",
            )
        return inputs

    def _node(self, graph: Graph, name: str) -> Node:
        if name not in graph:
            raise InputError(
                f"the app has no step {name!r} any more", where=f"app {self.plan.graph.name!r}"
            )
        node = graph[name]
        resources = self.replaced(name)
        return replace(node, step=node.step.with_resources(resources)) if resources else node

    def _call(
        self,
        node: Node,
        arguments: Mapping[str, Any],
        results: Mapping[str, Any],
        item: int | None,
    ) -> Any:
        values = _values(node, arguments, results)
        if node.each is not None and item is None:
            items = values.pop(node.each)
            return [node.step(**values, **{node.each: each}) for each in items]
        if node.each is not None and item is not None:
            values[node.each] = list(values[node.each])[item]
        result = node.step(**values)
        return list(result) if node.step.streams else result

    def _run(self, graph: Graph, arguments: Mapping[str, Any]) -> Run:
        # Not as a call in a notebook is run: text of a client is never a path to read.
        nodes = tuple(self._node(graph, node.name) for node in graph)
        program = compile_graph(replace(graph, nodes=nodes))
        ended: SimpleQueue[Execution] = SimpleQueue()
        with Executor(program, workers=max(1, len(program.tasks))) as executor:
            executor.submit(dict(arguments), ended.put)
            return ended.get().to_run()


@dataclass(frozen=True)
class FailedRequest(Failure):
    """A failure whose step can be run again here."""

    reproduction: Reproduction | None = field(default=None, repr=False, compare=False)

    @entry_point
    def reproduce(self) -> Any:
        """Run the step again in this process, on the inputs with which it failed.

        It raises what the step raises, with its frames, so that ``%debug`` shows its variables.
        Code, models and configuration are those that are deployed now. If the step no longer
        fails, its result is returned.

        Raises:
            InputError: the inputs were not kept: they are too large, older than the last 20
                failures of a replica, or ``keep_inputs=False``.
        """
        assert self.reproduction is not None
        return self.reproduction.step(self.id)


@dataclass(slots=True)
class SlowRequest(Trace):
    """The trace of a request that can be run again here."""

    reproduction: Reproduction | None = field(default=None, repr=False, compare=False)

    @entry_point
    def reproduce(self) -> Run:
        """Run the whole pipeline again in this process, on the arguments of the request.

        Returns:
            the run, with value and time of each step.

        Raises:
            InputError: the arguments were not kept: they are too large, the request is not among
                the ten slowest of its replica, or ``keep_inputs=False``.
        """
        assert self.reproduction is not None
        return self.reproduction.request(self.id)


def _fields(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _values(node: Node, arguments: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: resolver(source)(arguments, results) for name, source in node.inputs.items()}
