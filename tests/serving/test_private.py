"""What is used of others' private names: a failure here says what another version broke."""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Generic, TypeVar

import pydantic
import pytest

from mlkit.define.classes import _parametrized
from mlkit.serving.kernel.doctor import about_private_names
from mlkit.serving.port import controller
from mlkit.serving.port.cluster import _replaced
from mlkit.serving.private import (
    HAPROXY_MANAGER,
    PRIVATE_USES,
    PrivateUse,
    private,
)

T = TypeVar("T")


@pytest.mark.parametrize("use", PRIVATE_USES, ids=lambda use: use.purpose)
def test_what_is_installed_has_its_names(use) -> None:
    assert use.missing == [], str(use)


@pytest.mark.parametrize(
    "name",
    [
        "ray.no_such_module:x",
        "ray.serve:no_such_function",
        "ray.serve:delete(no_such_parameter)",
        "ray._private.node:Node.no_such_method",
        "ray.serve._private.deployment_state:DeploymentState@_no_such_attribute",
        "ray.serve._private.deployment_state:NoSuchClass@_replicas",
    ],
)
def test_a_name_that_is_gone_is_told_with_what_follows(name) -> None:
    gone = PrivateUse("used for this", "that happens", ("ray.serve:delete(_blocking)", name))
    assert gone.missing == [name]
    (finding,) = about_private_names([gone])
    assert name in str(finding)
    assert "_blocking" not in str(finding)
    assert "that happens" in str(finding)


@pytest.mark.parametrize("gone", ["KEEP_HAPROXY", "KEEP_UPDATING", "KEEP_PACE"])
def test_the_controller_stays_as_it_is_without_any_of_its_names(gone, monkeypatch) -> None:
    from ray.serve._private.deployment_state import DeploymentState, DeploymentStateManager

    adapted = {
        "KEEP_HAPROXY": (private(HAPROXY_MANAGER), "check_health"),
        "KEEP_UPDATING": (DeploymentState, "get_running_replica_infos"),
        "KEEP_PACE": (DeploymentStateManager, "update"),
    }
    before = {use: getattr(*method) for use, method in adapted.items()}
    for use, method in adapted.items():
        monkeypatch.setattr(*method, before[use])  # restored afterwards
    monkeypatch.setattr(controller, gone, PrivateUse("", "", ("ray:gone",)))
    controller.adapt()
    unchanged = {use for use, method in adapted.items() if getattr(*method) is before[use]}
    assert unchanged == {gone}


def test_the_control_loop_is_fast_while_replicas_start_but_not_for_ever() -> None:
    pace = controller.Pace(0.2)
    assert pace.interval_s(starting=False, now=0) == 0.2
    assert pace.interval_s(starting=True, now=1) == controller.FAST_S
    assert pace.interval_s(starting=True, now=20) == controller.FAST_S
    assert pace.interval_s(starting=True, now=21) == 0.2
    assert pace.interval_s(starting=False, now=22) == 0.2
    assert pace.interval_s(starting=True, now=23) == controller.FAST_S
    assert controller.Pace(0.01).interval_s(starting=True, now=0) == 0.01


def test_the_controllers_interval_follows_its_deployments(monkeypatch) -> None:
    from ray.serve._private import controller as theirs
    from ray.serve._private.common import DeploymentStatus
    from ray.serve._private.deployment_state import DeploymentStateManager

    monkeypatch.setattr(theirs, "CONTROL_LOOP_INTERVAL_S", 0.2)
    monkeypatch.setattr(DeploymentStateManager, "update", lambda self, proxy_nodes=None: True)
    controller._keep_pace()
    info = SimpleNamespace(status=DeploymentStatus.UPSCALING)
    states = {"served": SimpleNamespace(curr_status_info=info)}
    manager = SimpleNamespace(_deployment_states=states)
    assert DeploymentStateManager.update(manager, proxy_nodes=set())  # type: ignore[arg-type]
    assert controller.FAST_S == theirs.CONTROL_LOOP_INTERVAL_S
    info.status = DeploymentStatus.HEALTHY
    DeploymentStateManager.update(manager)  # type: ignore[arg-type]
    assert theirs.CONTROL_LOOP_INTERVAL_S == 0.2


def test_a_parametrized_model_is_rebuilt_without_pydantics_cache(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic._internal._generics", None)
    monkeypatch.delattr(pydantic._internal, "_generics")
    page = _parametrized(Page, (int,), type(Page), "Page[int]", (Page,), {}, "tracker", None)
    assert page is Page[int]
    assert page(items=["1"]).items == [1]


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


def is_private(name: object) -> bool:
    """Whether it is a private name; those of enums, ``_value_``, are not."""
    return isinstance(name, str) and name.startswith("_") and not name.endswith("_")


def imported(tree: ast.AST) -> Iterator[str]:
    """Private modules and members that a module imports, by module and name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if any(part == "generated" or is_private(part) for part in name.split(".")):
                    yield name


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives to what is its own: functions, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                yield node.attr
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.arg():
                yield node.arg


def used(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Private attributes and keywords that a module uses, and whether they are of ``self``."""
    methods = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.ClassDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if is_private(name):
                of_self = isinstance(value, ast.Name) and value.id in ("self", "cls")
                yield name, of_self and node in methods
            case ast.keyword(arg=name) if is_private(name):
                yield str(name), False
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr"),
                args=[_, ast.Constant(value=name), *_],
            ) if is_private(name):
                yield name, False


def foreign(trees: Sequence[ast.AST]) -> Iterator[str]:
    """Private names of other libraries that the modules of a package use."""
    shared = {name for tree in trees for name in defined(tree)}  # with classes to inherit from
    for tree in trees:
        own = set(defined(tree))
        yield from (n for n, of_self in used(tree) if n not in (shared if of_self else own))


EXEMPT = {
    "Python's own": {"_exit", "_initializing", "_is_protocol", "_lru_cache_wrapper"},
    "documented: fields and methods of a NamedTuple": {"_asdict", "_fields", "_make", "_replace"},
    "documented by ray.init and pandas.describe_option": {"_temp_dir", "_print_desc"},
    "mlkit's own: the views of an app": {"_observed", "_since"},
    "mlkit's own: marks and models of its neighbours": {"_mlkit_type", "_run"},
    "pandas' frequencies, which no public name sets unchecked; tested with the exact form": {
        *("_data", "_freq"),
    },
    "torch and efficientnet-lite-pytorch, of which exactly one version is allowed": {
        *("_BatchNorm", "_ConvNd", "_buffers", "_internal", "_non_persistent_buffers_set"),
        *("_blocks", "_bn0", "_bn1", "_conv_head", "_conv_stem", "_fc", "_parameters", "_swish"),
        "_untyped_storage",
    },
}
"""Private names that are not in the table, by reason."""

LIBRARIES = {"cloudpickle", "fastapi", "pydantic", "pydantic_core", "ray", "starlette"}


@pytest.fixture(scope="module")
def packages(repository: Path) -> list[list[ast.AST]]:
    """The modules of each package of mlkit, parsed."""
    folders = {file.parent for file in (repository / "mlkit").rglob("*.py")}
    return [
        [ast.parse(file.read_text()) for file in folder.glob("*.py")] for folder in sorted(folders)
    ]


def test_every_private_import_is_in_the_table(packages) -> None:
    listed = [name.replace(":", ".") for use in PRIVATE_USES for name in use.names]
    names = {
        name
        for trees in packages
        for tree in trees
        for name in imported(tree)
        if name.partition(".")[0] in LIBRARIES
    }
    assert len(names) > 5
    assert [n for n in names if not any(f"{e}.".startswith(f"{n}.") for e in listed)] == []


def test_every_private_attribute_is_in_the_table(packages) -> None:
    listed = {
        re.split(r"[.:@(]", name.rstrip(")"))[-1] for use in PRIVATE_USES for name in use.names
    }
    exempt = {name for names in EXEMPT.values() for name in names}
    names = {name for trees in packages for name in foreign(trees)}
    assert len(names & listed) > 10
    assert names - listed - exempt == set()
    assert exempt - names == set(), "no longer used"


def test_private_attributes_of_others_are_found() -> None:
    base = "class Base:\n    def __init__(self): self._own = 1"
    user = """
class Child(Base):
    def method(self, other):
        return self._own, other._theirs, getattr(other, "_by_name"), call(_keyword=1)
def adapted(self):
    return self._own
"""
    found = sorted(foreign([ast.parse(base), ast.parse(user)]))
    assert found == ["_by_name", "_keyword", "_own", "_theirs"]


@pytest.mark.parametrize("owner", ["ray._private.gone:Node", "ray._private.node:Gone"])
def test_starting_does_without_functions_whose_module_is_gone(owner) -> None:
    with _replaced(owner, {"start_monitor": lambda node: None}):
        pass
