"""What is used of others' private names: a failure here says what another version broke."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlkit.serving.kernel.doctor import about_private_names
from mlkit.serving.port.cluster import _replaced
from mlkit.serving.private import PRIVATE_NAMES, PrivateName


@pytest.mark.parametrize("name", PRIVATE_NAMES, ids=lambda name: name.name)
def test_what_is_installed_has_it(name) -> None:
    assert name.exists, f"{name.name} is gone: {name.used_for}. Without it: {name.without}"


@pytest.mark.parametrize(
    "name",
    [
        "ray.no_such_module:x",
        "ray.serve:no_such_function",
        "ray.serve:delete(no_such_parameter)",
        "ray._private.node:Node.no_such_method",
    ],
)
def test_a_name_that_is_gone_is_told_with_what_follows(name) -> None:
    gone = PrivateName(name, "used for this", "that happens")
    assert not gone.exists
    (finding,) = about_private_names([gone])
    assert name in str(finding)
    assert "that happens" in str(finding)


def private_imports(source: str) -> Iterator[str]:
    """The private modules and members of Ray, Starlette and FastAPI that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                library, *parts = name.split(".")
                if library in {"ray", "starlette", "fastapi"} and any(
                    part == "generated" or (part.startswith("_") and not part.startswith("__"))
                    for part in parts
                ):
                    yield name


def test_every_private_import_is_in_the_table(repository: Path) -> None:
    listed = [name.name.replace(":", ".") for name in PRIVATE_NAMES]
    imported = [
        name
        for file in (repository / "mlkit").rglob("*.py")
        for name in private_imports(file.read_text())
    ]
    assert len(imported) > 5
    missing = [n for n in imported if not any(f"{e}.".startswith(f"{n}.") for e in listed)]
    assert missing == []


@pytest.mark.parametrize("owner", ["ray._private.gone:Node", "ray._private.node:Gone"])
def test_starting_does_without_functions_whose_module_is_gone(owner) -> None:
    with _replaced(owner, {"start_monitor": lambda node: None}):
        pass
