"""How the versions of an app are shown, and what a rollback does to its notebook."""

from __future__ import annotations

import pytest

from mlkit import pipeline, step
from mlkit.define.shipping import dumps
from mlkit.errors import InputError
from mlkit.plan import plan
from mlkit.serving.control.records import AppVersion, Trial
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.versions import Versions

from .test_swap import FakeSession


@step
def look(x: int) -> int:
    return x


@pipeline
def shop(x: int) -> int:
    return look(x)


@step
def read(text: str) -> str:
    return text


def older():
    @pipeline
    def shop(text: str) -> str:
        return read(text)

    return shop


@pytest.fixture
def record(record_of):
    record = record_of(plan(shop))

    def version(name, **fields) -> AppVersion:
        parts = {"since": 0.0, "how": "deployed", "changed": "shop: look changed", "deployment": 1}
        return AppVersion(version=name, **{"spec": record.spec, **parts, **fields})

    versions = (
        version("aaaa", changed="first deployment"),
        version("bbbb", left=True, how="swapped"),
        version("cccc", spec=None, error="ValueError: <script>"),
        version("dddd", how="rolled back"),
    )
    return record.model_copy(update={"version": "dddd", "versions": versions})


def test_each_version_has_a_row_with_its_state(record) -> None:
    frame = Versions.of(record).to_frame()
    assert list(frame.index) == ["aaaa", "bbbb", "cccc", "dddd"]
    assert list(frame["state"]) == [
        "before",
        "rolled back",
        "failed: ValueError: <script>",
        "serving",
    ]
    assert frame["changed"]["aaaa"] == "first deployment"


def test_a_version_on_trial_is_named_with_the_one_that_serves(record) -> None:
    trial = Trial(replacements={}, canary=0.1, version="eeee")
    versions = Versions.of(record.model_copy(update={"trial": trial}))
    assert versions.states[-1] == "serving; on trial: eeee"


def test_the_table_is_escaped_and_holds_no_token(record) -> None:
    versions = Versions.of(record)
    for shown in (repr(versions), versions._repr_html_()):
        assert "dddd" in shown
        assert "secret" not in shown
    assert "<script>" not in versions._repr_html_()


def test_an_app_without_versions_shows_an_empty_table(record) -> None:
    versions = Versions.of(record.model_copy(update={"versions": ()}))
    assert len(versions.to_frame()) == 0
    assert "version" in versions._repr_html_()


def test_after_a_rollback_the_app_takes_what_the_older_pipeline_takes(record, tmp_path) -> None:
    class Session(FakeSession):
        folder = tmp_path

        def about(self):
            return self

        @property
        def apps(self):
            return {"shop": self.record}

        def call(self, call, **options):
            super().call(call)
            return self.older

    session = Session(record)
    plan_key = session.put(dumps(plan(older())))
    spec = record.spec.model_copy(update={"plan": plan_key})
    session.older = record.model_copy(update={"spec": spec, "version": "aaaa"})
    app = App(session, plan(shop), record)
    assert app._bind((1,), {}) == {"x": 1}
    app.rollback("aaaa")
    assert (session.calls[-1].to, session.calls[-1].version) == ("aaaa", "dddd")
    assert app.version == "aaaa"
    assert app._bind(("a",), {}) == {"text": "a"}
    assert not app.closed
    with pytest.raises(InputError):
        app._bind((), {"x": 1})
