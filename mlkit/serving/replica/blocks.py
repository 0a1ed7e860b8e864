"""Runs a pipeline on blocks of rows of a dataset, as Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlkit.define.border import port
from mlkit.define.graph import Graph
from mlkit.errors import require_extra
from mlkit.execute import Executor, compile_graph
from mlkit.execute.cores import switch_promptly
from mlkit.execute.offline import stream
from mlkit.serving.bundle import Origin, unpack
from mlkit.serving.replica.threads import limit_threads

__all__ = ["ERROR", "BlockMapper", "columns_of"]

ERROR = "error"
"""Column with the error of a row that failed."""


class BlockMapper:
    """Runs a pipeline on blocks of rows, with an executor and resources that stay.

    A row of the result has the row's id, a column for each field of the pipeline's result, and
    ``error``, which is null unless the row failed.

    Args:
        graph: the pipeline.
        id: column that identifies a row.
        columns: column of each parameter.
        workers: threads that run steps.
    """

    def __init__(self, graph: Graph, id: str, columns: Mapping[str, str], workers: int) -> None:
        self._id = id
        self._returns = port(graph.returns)
        self._name = graph.name
        self._types = columns_of(graph)
        self._whole = list(self._types) == [graph.name]
        self._columns = dict(columns)
        self._required = {p.name for p in graph.parameters if p.required}
        self._defaults = {p.name: p.default for p in graph.parameters if not p.required}
        self._executor = Executor(compile_graph(graph), workers=workers)

    @classmethod
    def in_worker(
        cls,
        bundle: memoryview,
        origin: Origin,
        id: str,
        columns: Mapping[str, str],
        workers: int,
    ) -> BlockMapper:
        """Return one for this process, which runs nothing else, from a bundle of a pipeline."""
        require_extra("frames", "pyarrow")
        origin.enter()
        limit_threads()
        switch_promptly()
        (graph,) = unpack(bundle).graphs.values()
        return cls(graph, id, columns, workers)

    def __call__(self, block: Any) -> Any:
        """Return the results of a block of rows, in their order."""
        import pyarrow as pa

        rows = block.select(list(dict.fromkeys(self._columns.values()))).to_pylist()
        arguments = [self._arguments(row) for row in rows]
        results = stream(self._executor, arguments, on_error="keep")
        records = [self._record(result) for result in results]
        schema = pa.schema(
            [(name, type_ or pa.string()) for name, type_ in self._types.items()]
            + [(ERROR, pa.string())]
        )
        try:
            table = pa.Table.from_pylist(records, schema)
        # Usually one row is the cause, such as by an integer of more than 64 bits.
        except (pa.ArrowException, OverflowError):
            table = pa.Table.from_pylist([_fitting(row, schema) for row in records], schema)
        return table.add_column(0, self._id, block[self._id])

    def close(self) -> None:
        """Stop the executor."""
        self._executor.close()

    def _arguments(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a row; a missing value of an optional parameter stands for its default."""
        values = {name: row[column] for name, column in self._columns.items()}
        return self._defaults | {
            name: value
            for name, value in values.items()
            if value is not None or name in self._required
        }

    def _record(self, result: Any) -> dict[str, Any]:
        if isinstance(result, Exception):
            return {ERROR: str(result)}
        try:
            value = json.loads(self._returns.to_text(result))
        except Exception as error:  # a value that is not of the type, which pydantic reports
            return {ERROR: f"the result has no JSON form: {error}"}
        record = {self._name: value} if self._whole else value
        return {
            name: json.dumps(record[name]) if type_ is None else record[name]
            for name, type_ in self._types.items()
            if record.get(name) is not None
        }


def _fitting(record: dict[str, Any], schema: Any) -> dict[str, Any]:
    """A record, or what prevents it from being a row."""
    import pyarrow as pa

    try:
        pa.Table.from_pylist([record], schema)
    except (pa.ArrowException, OverflowError) as error:
        return {ERROR: f"the result does not fit its columns: {error}"}
    return record


def columns_of(graph: Graph) -> dict[str, Any]:
    """Return the columns of a pipeline's results, and their types in Arrow.

    A column per field, in the form that the field has in JSON; a result without fields is one
    column, with the pipeline's name. None stands for a column of JSON texts, where that form has
    no type in Arrow, such as a union.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    require_extra("frames", "pyarrow")
    schema = dict(port(graph.returns).output_schema)
    definitions = schema.get("$defs", {})
    resolved = _resolved(schema, definitions)
    fields = resolved.get("properties")
    if not fields or resolved.get("additionalProperties"):
        return {graph.name: _arrow_type(schema, definitions)}
    return {name: _arrow_type(field, definitions) for name, field in fields.items()}


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.rpartition("/")[2]]


def _arrow_type(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], around: tuple[str, ...] = ()
) -> Any:
    """The type in Arrow of what a JSON schema describes; None if there is none.

    Args:
        schema: describes the value.
        definitions: of the references in it.
        around: references that it is in; a type that contains itself has no type in Arrow.
    """
    import pyarrow as pa

    reference = schema.get("$ref")
    if reference in around:
        return None
    if reference is not None:
        return _arrow_type(_resolved(schema, definitions), definitions, (*around, reference))

    def inner(part: Any) -> Any:
        return _arrow_type(part, definitions, around)

    simple = {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
    }
    match schema:
        case {"anyOf": [*options]}:
            others = [option for option in options if option != {"type": "null"}]
            return inner(others[0]) if len(others) == 1 else None
        case {"type": str(kind)} if kind in simple:
            return simple[kind]
        case {"type": "array", "items": {**items}} if "prefixItems" not in schema:
            item = inner(items)
            return None if item is None else pa.list_(item)
        case {"type": "object", "properties": {**parts}} if parts:
            if schema.get("additionalProperties"):
                return None
            types = {name: inner(part) for name, part in parts.items()}
            return None if None in types.values() else pa.struct(list(types.items()))
    return None
