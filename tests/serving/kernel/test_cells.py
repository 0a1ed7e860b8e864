"""Whether the cells of an app have changed since it was deployed."""

from __future__ import annotations

import sys
import types

import pytest

from mlkit.plan import plan
from mlkit.serving.bundle import code_of
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.cells import Definition, outdated
from mlkit.serving.kernel.session import Session

CELLS = """
@step
def halve(x: float) -> float:
    return x / {by}

@step
def shift(x: float, more: float = {more}) -> float:
    return x + more

@pipeline
def moved(x: float) -> float:
    return {body}
"""
AS_DEPLOYED = {"by": 2, "more": 1.0, "body": "shift(halve(x))"}


def fill(cell, **changes) -> dict:
    return cell(CELLS.format(**{**AS_DEPLOYED, **changes}))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ()),
        ({"by": 3}, ("halve",)),
        ({"more": 2.0}, ("shift",)),
        ({"body": "halve(shift(x))"}, ("moved", "halve", "shift")),
        ({"body": "halve(x)"}, ("moved", "shift")),
        ({"body": "nothing(x)"}, ()),  # it cannot be told at the moment
    ],
)
def test_what_a_cell_has_changed_is_named(cell, changes, names) -> None:
    deployed = fill(cell)["moved"]
    code = code_of(deployed.graph)
    try:
        now = fill(cell, **changes)["moved"]
    except NameError:
        now = deployed
    assert set(outdated(code, now)) == set(names)


def test_a_step_that_runs_again_is_noticed_through_the_same_pipeline(cell) -> None:
    deployed = fill(cell)["moved"]
    code = code_of(deployed.graph)
    cell("@step\ndef halve(x: float) -> float:\n    return x / 3")
    assert outdated(code, Definition("moved", deployed).pipeline) == ("halve",)


def test_a_pipeline_whose_cell_runs_again_is_found_by_its_name(cell, monkeypatch) -> None:
    module = types.ModuleType("made_up")
    monkeypatch.setitem(sys.modules, "made_up", module)
    deployed = fill(cell)["moved"]
    deployed.fn.__module__ = "made_up"
    module.moved = deployed
    named = Definition("moved", deployed)
    module.moved = again = fill(cell, by=3)["moved"]
    assert named.pipeline is again
    module.moved = 7
    assert named.pipeline is None


def test_a_pipeline_without_a_name_of_its_own_is_not_taken_for_another(cell) -> None:
    deployed = fill(cell)["moved"]
    replaced = deployed.replace(halve=cell("")["shift"])
    assert Definition("moved", replaced).pipeline is replaced
    assert outdated(code_of(replaced.graph), replaced) == ()


def test_nothing_is_claimed_of_an_app_of_another_kernel(cell) -> None:
    fill(cell)  # not in `__main__` here
    assert Definition("moved", None).pipeline is None
    assert outdated({"halve": "x"}, None) == ()
    assert outdated({}, fill(cell)["moved"]) == ()


def test_an_app_says_so_wherever_it_is_shown(cell, tmp_path, record_of) -> None:
    deployed = fill(cell)["moved"]
    planned = plan(deployed)
    record = record_of(planned)
    spec = record.spec.model_copy(update={"code": code_of(deployed.graph)})
    record = record.model_copy(update={"spec": spec})
    app = App(Session(tmp_path), planned, record, deployed)
    assert "changed" not in repr(app)
    cell("@step\ndef halve(x: float) -> float:\n    return x / 3")
    assert app.outdated == ("halve",)
    assert "changed since it was deployed: halve" in repr(app)
    for shown in (str(app), app._repr_html_()):
        assert "halve: deploy again" in shown
