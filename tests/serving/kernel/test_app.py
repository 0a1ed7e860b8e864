"""What an app does without asking anybody."""

import json
import pickle
import shutil
from dataclasses import asdict

import httpx2
import pytest

from mlkit import pipeline, step
from mlkit.errors import DeployError, InputError, RequestError, StepError
from mlkit.plan import plan
from mlkit.serving import App, Limits
from mlkit.serving.http.problem import Failure
from mlkit.serving.kernel.session import Session


@step
def join(a: str, b: str, c: str) -> str:
    return a + b + c


@pipeline
def joined(a: str, b: str = "b", *, c: str) -> str:
    return join(a, b, c)


@pytest.fixture
def app(tmp_path, record_of):
    planned = plan(joined)
    return App(Session(tmp_path / "gone"), planned, record_of(planned))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "gone").mkdir()


def test_what_is_required_after_a_default_goes_by_keyword(app) -> None:
    assert app._bind(("x", "y"), {"c": "z"}) == {"a": "x", "b": "y", "c": "z"}
    with pytest.raises(InputError, match="missing a required"):
        app._bind(("x", "y"), {})


@pytest.mark.parametrize("request_timeout_s", [5.0, 60.0, 600.0, 3600.0])
def test_the_client_waits_longer_than_the_server_may_take(
    tmp_path, record_of, request_timeout_s
) -> None:
    planned = plan(joined)
    record = record_of(planned)
    spec = record.spec.model_copy(update={"limits": Limits(request_timeout_s=request_timeout_s)})
    app = App(Session(tmp_path / "gone"), planned, record.model_copy(update={"spec": spec}))
    waits = []

    def respond(request):
        waits.append(request.extensions["timeout"]["read"])
        return httpx2.Response(200, json="xbz")

    app._sender._transport = httpx2.MockTransport(respond)
    assert app("x", c="z") == "xbz"
    assert waits[0] > request_timeout_s


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


def failing(app, monkeypatch, status=500, **problem):
    """Has the app's server answer with a problem; returns the error that its caller gets."""
    document = {"detail": "step 'join' failed: ValueError", "step": "join", **problem}

    transport = httpx2.MockTransport(lambda request: httpx2.Response(status, json=document))
    monkeypatch.setattr(app._sender, "_transport", transport)
    with pytest.raises(RequestError) as caught:
        app("x", c="z")
    return caught.value


def test_a_failing_step_is_told_with_the_words_in_its_own_log(app, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "gone" / "logs"
    folder.mkdir()
    for id, words in (("a1", "other words"), ("b2", "its own words")):
        failure = Failure(id, "2026-01-01", "join", f"ValueError: {words}", "Traceback")
        with (folder / "joined.7.failure.jsonl").open("a") as file:
            file.write(json.dumps(asdict(failure)) + "\n")
    error = failing(app, monkeypatch, failure_id="b2")
    assert error.got == "ValueError: its own words"
    assert str(error).count("its own words") == 1


@pytest.mark.parametrize("problem", [{}, {"failure_id": "b2"}])
def test_a_failure_that_is_not_in_the_log_is_told_as_the_server_does(
    app, monkeypatch, problem
) -> None:
    error = failing(app, monkeypatch, **problem)
    assert (error.got, error.step) == (None, "join")
    assert "ValueError" in str(error)


def test_an_app_that_was_shut_down_is_not_scaled(app) -> None:
    app.shutdown()
    with pytest.raises(DeployError, match="the app was shut down"):
        app.scale("joined", 2)


def test_the_playground_is_a_link_without_the_token(app, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    link = app.playground()
    assert str(link).startswith("http://127.0.0.1:1/try?code=")
    assert "secret-token" not in str(link)
    assert "code=" not in repr(link)
    html = link._repr_html_()
    assert "/try?code=" in html
    assert "<iframe" not in html
    assert "<script" not in html
    assert opened == []
    app.playground(open=True)
    assert len(opened) == 1
    assert opened[0] != str(link)


def test_logs_are_those_of_a_request(app, tmp_path) -> None:
    folder = tmp_path / "gone" / "logs"
    folder.mkdir()
    lines = [
        {"time": i, "replica": 1, "step": step, "stream": "out", "text": step, "request": request}
        for i, (step, request) in enumerate([("join", "a"), ("join", "b"), ("join", None)])
    ]
    older = {"time": 9, "replica": 1, "step": None, "stream": "out", "text": "of an older version"}
    text = "\n".join(json.dumps(line) for line in [*lines, older])
    (folder / "joined.1.log.jsonl").write_text(text)
    assert [line.time for line in app.logs(request="a")] == [0]
    assert [line.time for line in app.logs("join")] == [0, 1, 2]
    assert len(app.logs()) == 4
