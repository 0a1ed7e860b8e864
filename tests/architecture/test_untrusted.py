"""What would run code of its input is called in few places, none of which reads a client's data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ALLOWED = {
    "mlkit/define/packing.py": {"pickle.loads": "code and models of the notebook, by digest"},
    "mlkit/define/shipping.py": {"cloudpickle.loads": "code of the notebook, by digest"},
    "mlkit/serving/replica/remote.py": {"pickle.loads": "calls between replicas, over Ray"},
    "mlkit/serving/replica/kept.py": {
        "pickle.loads": "files of the session's own replicas, in a folder of this user"
    },
    "mlkit/export/cells.py": {"exec": "cells of the notebook that is exported"},
    "mlkit/export/examples.py": {"eval": "a docstring of the notebook that is exported"},
    "mlkit/export/values.py": {"eval": "an expression that the exporter has written itself"},
}
"""Calls that run code of their input, by module, and whose input it is."""

LOADERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
DANGEROUS = {
    *(f"{module}.{name}" for module in LOADERS for name in ("load", "loads", "open", "Unpickler")),
    *("torch.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "eval", "exec"),
}


def dangerous(tree: ast.AST) -> Iterator[str]:
    """Yield each use of what can run code of its input."""
    safe = {id(call.func) for call in ast.walk(tree) if _loads_weights_only(call)}
    for node in ast.walk(tree):
        if id(node) not in safe:
            yield from (name for name in _named(node) if name in DANGEROUS)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from () if ast.unparse(node.value) == "False" else ("allow_pickle",)


def _named(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            yield f"{module}.{name}"
        case ast.ImportFrom(module=str(module), names=names):
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Name(id=name):
            yield name


def _loads_weights_only(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and any(
        keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True"
        for keyword in node.keywords
    )


def test_nothing_from_outside_is_unpickled_or_evaluated(repository: Path) -> None:
    found = {}
    for path in sorted((repository / "mlkit").rglob("*.py")):
        if calls := set(dangerous(ast.parse(path.read_text()))):
            found[path.relative_to(repository).as_posix()] = calls
    assert found == {path: set(calls) for path, calls in ALLOWED.items()}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pickle.loads(body)", ["pickle.loads"]),
        ("decode = cloudpickle.loads", ["cloudpickle.loads"]),
        ("from pickle import loads", ["pickle.loads"]),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(file, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(file, allow_pickle=False)", []),
        ("yaml.load(text, Loader)", ["yaml.load"]),
        ("yaml.safe_load(text)", []),
        ("eval(text)", ["eval"]),
        ("module.eval()", []),
    ],
)
def test_each_way_to_run_code_is_found(source: str, found: list[str]) -> None:
    assert list(dangerous(ast.parse(source))) == found
