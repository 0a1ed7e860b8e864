"""Nothing from outside is run: no pickles, `eval` or `yaml.load`, except for what is listed."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

CALLS = {
    *("eval", "exec", "compile", "__import__", "dill.loads", "marshal.loads", "shelve.open"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads"),
    *("joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load"),
    *("pandas.read_pickle", "runpy.run_path", "runpy.run_module", "code.interact"),
}
"""Calls that run code, or read what can run code."""

NEEDS = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
    "subprocess.run": ("shell", None),
    "subprocess.Popen": ("shell", None),
}
"""Calls with an argument that must have this value; None: that must not be given."""

ALLOWED: dict[tuple[str, str], str] = {
    ("define/modules.py", "compile"): "modules beside the notebook, from the session's own store",
    ("define/packing.py", "pickle.loads"): "code of the notebook, from the session's own store",
    (
        "define/shipping.py",
        "cloudpickle.loads",
    ): "code of the notebook, from the session's own store",
    ("serving/replica/kept.py", "pickle.loads"): "inputs that a replica has kept in its own folder",
    ("serving/replica/remote.py", "pickle.loads"): "arguments and results of stages, through Ray",
    ("serving/port/forkserver.py", "runpy.run_path"): "Ray's script of a worker process",
    ("serving/port/imports.py", "runpy.run_path"): "Ray's scripts of its agents",
    ("export/cells.py", "compile"): "cells of the notebook that is exported",
    ("export/cells.py", "exec"): "cells of the notebook that is exported",
    ("export/examples.py", "compile"): "arguments in cells of the notebook that is exported",
    ("export/examples.py", "eval"): "arguments in cells of the notebook that is exported",
    ("export/values.py", "compile"): "an expression that mlkit has written itself",
    ("export/values.py", "eval"): "an expression that mlkit has written itself",
}
"""Where such a call stands, and where what it reads comes from."""


def found(source: str) -> Iterator[str]:
    """The forbidden calls and names in a module."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        name = _dotted(node, names)
        if name in CALLS:
            yield name  # called or passed on
        elif name in NEEDS and not _has(called.get(id(node)), *NEEDS[name]):
            yield name


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def _has(call: ast.Call | None, argument: str, value: object) -> bool:
    given = [k.value for k in call.keywords if k.arg == argument] if call else []
    if value is None:
        return not given
    return [g.value for g in given if isinstance(g, ast.Constant)] == [value]


def test_code_from_outside_is_not_run(repository: Path) -> None:
    calls: Counter[tuple[str, str]] = Counter()
    for path in (repository / "mlkit").rglob("*.py"):
        module = path.relative_to(repository / "mlkit").as_posix()
        calls.update((module, name) for name in found(path.read_text()))
    assert calls.keys() == ALLOWED.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(x)",
        "from pickle import loads as read\nread(x)",
        "import cloudpickle as cp\ncp.load(x)",
        "eval(x)",
        "f = exec",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "import torch\ntorch.load(x, weights_only=flag)",
        "import numpy as np\nnp.load(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import yaml\nyaml.load(x, Loader=yaml.Loader)",
        "import subprocess\nsubprocess.run(x, shell=True)",
    ],
)
def test_a_call_that_runs_code_is_found(source: str) -> None:
    assert list(found(source))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(x)",
        "net.eval()",
        "import torch\ntorch.load(x, weights_only=True)",
        "import numpy as np\nnp.load(x, allow_pickle=False)",
        "import yaml\nyaml.safe_load(x)",
        "import json\njson.loads(x)",
    ],
)
def test_other_calls_are_not(source: str) -> None:
    assert not list(found(source))
