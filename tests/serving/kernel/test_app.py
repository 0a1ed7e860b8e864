"""What an app does without asking anybody."""

import pickle
import shutil

import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError, InputError, StepError
from mlkit.plan import plan
from mlkit.serving import App, Limits
from mlkit.serving.bundle import Manifest, Origin
from mlkit.serving.control.records import AppRecord, AppSpec, AppState, StageSpec
from mlkit.serving.kernel.scale import settings_of
from mlkit.serving.kernel.session import Session


@step
def join(a: str, b: str, c: str) -> str:
    return a + b + c


@pipeline
def joined(a: str, b: str = "b", *, c: str) -> str:
    return join(a, b, c)


@pytest.fixture
def app(tmp_path):
    planned = plan(joined)
    spec = AppSpec(
        app="joined",
        stages=tuple(
            StageSpec(
                name=stage.name,
                digest="",
                bundle="",
                manifest=Manifest({}, {}),
                ray_actor_options={},
                options={},
                settings=settings_of(stage, lambda data: ""),
            )
            for stage in planned.stages
        ),
        plan="",
        origin=Origin("/", ()),
        limits=Limits(),
        token="secret-token",
    )
    record = AppRecord(
        spec=spec,
        state=AppState.SERVING,
        generation=1,
        root=True,
        url="http://127.0.0.1:1/joined",
        base="http://127.0.0.1:1",
        since=0.0,
    )
    return App(Session(tmp_path / "gone"), planned, record)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "gone").mkdir()


def test_what_is_required_after_a_default_goes_by_keyword(app) -> None:
    assert app._bind(("x", "y"), {"c": "z"}) == {"a": "x", "b": "y", "c": "z"}
    with pytest.raises(InputError, match="missing a required"):
        app._bind(("x", "y"), {})


def test_views_need_no_session_and_hold_no_token(app, tmp_path) -> None:
    shutil.rmtree(tmp_path / "gone")
    for view in (repr(app), str(app), app._repr_html_(), app.curl()):
        assert "secret-token" not in view


def test_the_token_lies_where_only_this_user_can_read_it(app, tmp_path) -> None:
    file = tmp_path / "gone" / "joined.header"
    assert file.read_text() == "Authorization: Bearer secret-token\n"
    assert file.stat().st_mode & 0o077 == 0


def test_an_error_leaves_the_values_of_its_request_behind_when_it_travels() -> None:
    error = StepError("it broke", step="join", pipeline="joined", run=object())
    again = pickle.loads(pickle.dumps(error))
    assert (again.step, again.run) == ("join", None)


def test_an_app_that_was_shut_down_is_not_scaled(app) -> None:
    app.shutdown()
    with pytest.raises(DeployError, match="it was shut down"):
        app.scale("joined", 2)
