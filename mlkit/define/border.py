"""Values at the border of a pipeline: what callers may pass, and how it is serialized.

Types of `registry.py` have a form of their own: images, ``bytes``, arrays, DataFrames, and classes
with a `codec`. All others are JSON by pydantic. Between a notebook and its own app, values travel
in the exact form of `exact.py` instead, which loses nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from mlkit.define.classnames import classes_of
from mlkit.define.graph import Graph, Problem
from mlkit.define.port import Port, plain
from mlkit.define.registry import codec, own_port, revision
from mlkit.define.typing import show
from mlkit.errors import DefinitionError, MissingExtra

__all__ = ["Port", "codec", "plain", "port", "problems"]


def port(annotation: Any) -> Port:
    """Return the port of a type.

    Raises:
        DefinitionError: it has none; suggests `codec`.
        MissingExtra: it needs an optional dependency.
    """
    try:
        return _port(annotation, revision())
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _port.__wrapped__(annotation, revision())


@lru_cache(maxsize=256)
def _port(annotation: Any, codecs_revision: int) -> Port:
    return own_port(annotation) or _pydantic_port(annotation)


def _pydantic_port(annotation: Any) -> Port:
    from mlkit.define.schema import Schema  # late: pydantic takes a third of the time of an import

    schema = Schema(annotation, own_port)
    return Port(
        annotation,
        schema.from_json,
        schema.to_python,
        schema.local,
        schema.input,
        pydantic=schema,
    )


def problems(graph: Graph) -> Iterator[Problem]:
    """Parameters and results whose type cannot cross the border."""
    from mlkit.define.exact import has_form

    where = f"pipeline {graph.name!r}"
    named = [(f"the argument {p.name!r}", p.type) for p in graph.parameters]
    for subject, type_ in [*named, ("what it returns", graph.returns)]:
        if type_ is inspect.Parameter.empty:
            continue
        try:
            port(type_)
        except (DefinitionError, MissingExtra) as error:
            yield Problem(where, f"{subject}: {error.what}", got=show(type_), fix=error.fix)
            continue
        for cls in classes_of([type_]):
            if not has_form(cls):
                yield Problem(
                    where,
                    f"{subject}: values of type {show(cls)} cannot be restored from their "
                    "attributes: the class has its own way, such as __reduce__, or is in C",
                    got=show(type_),
                    fix=f"declare a codec for it: codec({show(cls)}, encode=..., decode=...)",
                )
