"""Conversion of inputs to arguments by name.

Throughout mlkit, ``inputs`` and ``payloads`` have the same forms: dicts of arguments, a DataFrame
with columns named like the parameters, or bare values if only one parameter is required.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlkit.define.graph import Graph, Parameter
from mlkit.errors import InputError

__all__ = ["arguments_of", "is_frame", "read", "rows", "signature_of"]


def is_frame(inputs: Any) -> bool:
    """Whether it is a pandas DataFrame, without importing pandas."""
    return type(inputs).__module__.partition(".")[0] == "pandas" and hasattr(inputs, "itertuples")


def rows(inputs: Iterable[Any], parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Return one dict of arguments per input.

    Raises:
        InputError: an input does not match the parameters.
    """
    if is_frame(inputs):
        return _frame_rows(inputs, parameters)
    if isinstance(inputs, (str, bytes, Mapping)):
        raise InputError(
            "inputs must be a list or a DataFrame",
            got=type(inputs).__name__,
            fix="wrap a single input in a list: [x]",
        )
    return [arguments_of(item, parameters, i) for i, item in enumerate(inputs)]


def read(
    inputs: Iterable[Any], parameters: Sequence[Parameter]
) -> Iterable[dict[str, Any] | InputError]:
    """Return the arguments of each input, with defaults.

    Sequences and DataFrames are checked at once. Items of other iterables, which may be endless,
    are checked as they are read; one that does not match yields its error instead.

    Raises:
        InputError: an input does not match the parameters.
    """
    defaults = {p.name: p.default for p in parameters if not p.required}
    if isinstance(inputs, (Sequence, Mapping)) or is_frame(inputs):
        return [{**defaults, **row} for row in rows(inputs, parameters)]
    return _read_lazily(inputs, parameters, defaults)


def _read_lazily(
    inputs: Iterable[Any], parameters: Sequence[Parameter], defaults: Mapping[str, Any]
) -> Iterator[dict[str, Any] | InputError]:
    for i, item in enumerate(inputs):
        try:
            yield {**defaults, **arguments_of(item, parameters, i)}
        except InputError as error:
            yield error


def arguments_of(
    payload: Any, parameters: Sequence[Parameter], position: int | None = None
) -> dict[str, Any]:
    """Convert a payload, a dict of arguments or the only required value, to arguments by name.

    Raises:
        InputError: it does not match the parameters.
    """
    names = {p.name for p in parameters}
    where = "payload" if position is None else f"input {position}"
    if isinstance(payload, Mapping) and set(payload) <= names and payload:
        missing = [p.name for p in parameters if p.required and p.name not in payload]
        if missing:
            raise InputError(
                f"missing arguments: {', '.join(missing)}", where=where, got=_keys(payload)
            )
        return dict(payload)
    required = [p.name for p in parameters if p.required]
    if not required and len(names) == 1:
        required = list(names)
    if len(required) != 1 or (isinstance(payload, Mapping) and set(payload) & names):
        raise InputError(
            "it does not match the parameters",
            where=where,
            expected=f"a dict with {', '.join(p.name for p in parameters)}",
            got=_keys(payload) if isinstance(payload, Mapping) else type(payload).__name__,
        )
    return {required[0]: payload}


def _keys(payload: Mapping[Any, Any]) -> str:
    return f"a dict with {', '.join(map(str, payload)) or 'nothing'}"


def _frame_rows(frame: Any, parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    import pandas as pd

    known = [p for p in parameters if p.name in frame.columns]
    missing = [p.name for p in parameters if p.required and p not in known]
    if missing:
        raise InputError(
            f"the DataFrame has no column {', '.join(missing)}",
            expected=f"columns named like the parameters: {', '.join(p.name for p in parameters)}",
            got=", ".join(map(str, frame.columns)),
        )
    optional = {p.name for p in known if not p.required}
    columns = {p.name: frame[p.name].tolist() for p in known}
    return [
        {
            name: values[i]
            for name, values in columns.items()
            # A missing value in an optional column stands for the default.
            if not (name in optional and pd.api.types.is_scalar(values[i]) and pd.isna(values[i]))
        }
        for i in range(len(frame))
    ]


def signature_of(graph: Graph) -> inspect.Signature:
    """The pipeline's signature; required parameters after optional ones are keyword-only."""
    inspected = inspect.Parameter
    parameters = []
    kind: Any = inspected.POSITIONAL_OR_KEYWORD
    after_default = False
    for parameter in graph.parameters:
        if parameter.required and after_default:
            kind = inspected.KEYWORD_ONLY
        after_default = after_default or not parameter.required
        default = inspected.empty if parameter.required else parameter.default
        parameters.append(inspected(parameter.name, kind, default=default))
    return inspect.Signature(parameters)
