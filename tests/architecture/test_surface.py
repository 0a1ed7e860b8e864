"""Modules say in one sorted ``__all__`` what is public."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest


def bound_names(body: list[ast.stmt]) -> set[str]:
    """Returns the public names that statements bind, those imported from mlkit included."""
    names: set[str] = set()
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom() if node.level or (node.module or "").startswith("mlkit"):
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.If():
                names |= bound_names([*node.body, *node.orelse])
    return {name for name in names if not name.startswith("_")}


def declared(tree: ast.Module) -> list[str] | None:
    """Returns the module's ``__all__``, if it has one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def order(name: str) -> tuple[int, str]:
    """Sorts as ruff (RUF022) and isort do: CONSTANTS, then Classes, then functions."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name


def surface_faults(file: Path) -> Iterator[str]:
    """Yields what is wrong with the ``__all__`` of a module or package."""
    tree = ast.parse(file.read_text())
    names, package = declared(tree), file.name == "__init__.py"
    if names is None:
        if package and len(tree.body) > 1:
            yield "a package needs an __all__"
        return
    if names != sorted(set(names), key=order):
        yield "__all__ is not sorted"
    everything = bound_names(tree.body)
    if missing := {name for name in names if not name.startswith("__")} - everything:
        yield f"__all__ names what is not there: {', '.join(sorted(missing))}"
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if package and (left_out := everything - used - set(names)):
        yield f"gathered, and not in __all__: {', '.join(sorted(left_out))}"


def test_every_module_says_what_is_public(repository: Path) -> None:
    root = repository / "mlkit"
    faults = {
        file.relative_to(root).as_posix(): found
        for file in sorted(root.rglob("*.py"))
        if (found := list(surface_faults(file)))
    }
    assert faults == {}


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("m.py", '__all__ = ["b", "a"]\ndef a(): ...\ndef b(): ...', "not sorted"),
        ("m.py", '__all__ = ["a", "a"]\ndef a(): ...', "not sorted"),
        ("m.py", '__all__ = ["a", "B"]\ndef a(): ...\nclass B: ...', "not sorted"),
        ("m.py", '__all__ = ["a", "gone"]\ndef a(): ...', "not there: gone"),
        ("__init__.py", "__all__ = []\ndef a(): ...", "not in __all__: a"),
        ("__init__.py", '"""Doc."""\nfrom mlkit.x import a', "needs an __all__"),
        ("__init__.py", "__all__ = []\nfrom mlkit.x import a", "not in __all__: a"),
    ],
)
def test_a_fault_in_all_is_found(tmp_path: Path, name: str, source: str, fault: str) -> None:
    (tmp_path / name).write_text(source)
    (found,) = surface_faults(tmp_path / name)
    assert re.search(re.escape(fault), found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("m.py", "def a(): ..."),
        ("m.py", '__all__ = ["LIMIT", "A", "b"]\nLIMIT = 1\nx = 2\nclass A: ...\ndef b(): ...'),
        ("__init__.py", '"""Only words."""'),
        ("__init__.py", '__all__ = ["a"]\nimport os\nfrom typing import Any\nfrom .x import a'),
        ("__init__.py", '__all__ = ["f"]\nfrom mlkit.x import a\ndef f() -> a: ...'),
        ("__init__.py", '__all__ = ["a"]\nif TYPE_CHECKING:\n    from mlkit.x import a'),
    ],
)
def test_a_sound_module_has_no_fault(tmp_path: Path, name: str, source: str) -> None:
    (tmp_path / name).write_text(source)
    assert list(surface_faults(tmp_path / name)) == []


def test_a_class_name_has_one_meaning(repository: Path) -> None:
    places: dict[str, list[str]] = {}
    for file in sorted((repository / "mlkit").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(file.name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
