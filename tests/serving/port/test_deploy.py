"""Pipelines on a real Ray Serve, deployed as from cells; one session serves all of these tests."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from mlkit.errors import Cancelled, DeployError, RequestError
from mlkit.serving.control.watchdog import processes_of

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

LABELS = """
from pydantic import BaseModel

class Label(BaseModel):
    name: str
    pid: int

@step
async def fetch(image: ImageSource) -> bytes:
    return image if isinstance(image, bytes) else image.encode()

@step
def look(data: bytes, title: str) -> list[Label]:
    print("looking at", len(data))
    if data == b"boom":
        raise ValueError("no boom please")
    return [Label(name=title or "untitled", pid=os.getpid())]

@pipeline
def tag(image: ImageSource, title: str = "") -> list[Label]:
    "Tag one."
    return look(fetch(image), title)
"""

ADD = """
@step
def add(x: int) -> int:
    return x + {more}

@pipeline
def answer(x: int) -> int:
    return add(x)
"""

LOADED = """
def load():
    text = open({file!r}).read()
    if text == "slow":
        open({file!r} + ".loading", "w").close()
        time.sleep(60)
    if text == "broken":
        raise RuntimeError("this model is broken")
    return text

@step
def ask(x: str, *, model: str = resource(load, files=[{file!r}])) -> str:
    return model + x

@pipeline
def answer(x: str) -> str:
    return ask(x)
"""

SLOW = """
@step
def first(path: str) -> str:
    until = time.monotonic() + 60
    while not os.path.exists(path + ".go") and time.monotonic() < until:
        time.sleep(0.01)
    return path

@step
def second(path: str) -> str:
    with open(path, "a") as file:
        file.write("second ran")
    return path

@pipeline
def answer(path: str) -> str:
    return second(first(path))
"""


@pytest.fixture
def tagger_app(live, cell):
    names = cell(LABELS)
    return live(names["tag"]), names


@pytest.fixture
def model(tmp_path, live, cell):
    """Returns a function: contents of the model's file to the app that has it."""
    file = tmp_path / "model.txt"

    def deploy(content):
        file.write_text(content)
        return live(cell(LOADED.format(file=str(file)))["answer"])

    deploy.is_loading = Path(f"{file}.loading").exists
    return deploy


@contextmanager
def interrupted_when(condition):
    """Sends an interrupt to this process when a condition holds."""

    def interrupt():
        until = time.monotonic() + 60
        while not condition() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_deployed_pipeline_is_called_like_one_here(live, cell, capfd) -> None:
    names = cell(LABELS)
    app = live(names["tag"])
    (label,) = app(b"1234", title="shoe")
    assert isinstance(label, names["Label"])
    assert label.name == "shoe"
    assert label.pid != os.getpid()
    assert app("http://a.example/b")[0].name == "untitled"
    assert app.status().ready
    assert capfd.readouterr() == ("", "")  # not one line of Ray's or Serve's


def test_an_unchanged_pipeline_keeps_its_replicas(tagger_app, live, cell) -> None:
    app, _ = tagger_app
    (before,) = app(b"1")
    again = live(cell(LABELS)["tag"])  # the same cell once more
    assert again(b"1")[0].pid == before.pid
    assert (again.url, again.token) == (app.url, app.token)


def test_what_a_step_prints_is_in_its_logs(tagger_app) -> None:
    app, _ = tagger_app
    app(b"123456789")
    assert "looking at 9" in [line.text for line in app.logs("look")]
    assert app.logs("fetch") == []
    with pytest.raises(DeployError, match="nothing"):
        app.logs("nothing")


def test_a_step_that_raises_is_named_and_its_traceback_is_kept(tagger_app) -> None:
    app, _ = tagger_app
    with pytest.raises(RequestError, match="no boom please") as caught:
        app(b"boom")
    assert (caught.value.http_status, caught.value.step) == (500, "look")
    failure = app.failures[-1]
    assert failure.id == caught.value.failure_id
    assert "in look" in failure.traceback
    assert app(b"1")


def test_many_inputs_come_back_in_order(tagger_app) -> None:
    app, _ = tagger_app
    inputs = [{"image": b"boom" if i == 7 else b"1", "title": str(i)} for i in range(40)]
    found = app.map(inputs, concurrency=8, on_error="keep", progress=False)
    assert isinstance(found.pop(7), RequestError)
    assert [label.name for (label,) in found] == [str(i) for i in range(40) if i != 7]


def test_only_callers_with_the_token_get_in(tagger_app) -> None:
    app, _ = tagger_app
    assert httpx2.post(app.url, json={"image": "http://x"}).status_code == 401
    with httpx2.Client(follow_redirects=True) as browser:
        link = app.docs
        assert browser.get(link).status_code == 200
        assert browser.get(link.partition("?")[0]).status_code == 200
    assert httpx2.get(link).status_code == 401  # once only
    assert any((app.session.folder / "logs").glob("[0-9]*.*.*"))  # by any of the replicas


def test_steps_stop_when_the_client_disconnects(live, cell, tmp_path) -> None:
    app = live(cell(SLOW)["answer"])
    path = tmp_path / "ran"
    requests = [app.prepare(str(path)) for _ in range(3)]
    for request in requests:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(request.url, headers=request.headers, content=request.body, timeout=0.2)
    time.sleep(2)  # who has left is not counted, so that nothing says when it is noticed
    (tmp_path / "ran.go").touch()
    app(str(path))
    assert path.read_text() == "second ran"  # once


def test_every_process_of_a_session_carries_its_mark(tagger_app) -> None:
    app, _ = tagger_app
    marked = processes_of(app.session.folder.name)
    titles = " ".join(" ".join(process.cmdline()) for process in marked)
    assert app(b"1")[0].pid in {process.pid for process in marked}
    for name in ("raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent", "haproxy"):
        assert name in titles


def test_a_session_is_without_the_processes_that_would_only_take_time(tagger_app) -> None:
    app, _ = tagger_app
    titles = [" ".join(process.cmdline()) for process in processes_of(app.session.folder.name)]
    for name in ("log_monitor.py", "autoscaler/_private/monitor.py", "dashboard/dashboard.py"):
        assert not [title for title in titles if name in title]


def test_a_changed_function_answers_from_the_next_deploy_on(live, cell, capfd) -> None:
    app = live(cell(ADD.format(more=1))["answer"])
    assert app(1) == 2
    again = live(cell(ADD.format(more=10))["answer"])
    assert {fresh_call(again) for _ in range(20)} == {11}
    assert app(1) == 11  # the former name leads to the same app
    assert again.url == app.url
    assert capfd.readouterr() == ("", "")


def fresh_call(app):
    """Asks over a connection of its own."""
    request = app.prepare(1)
    return httpx2.post(request.url, headers=request.headers, content=request.body).json()


def test_pipelines_stand_beside_each_other(tagger_app, live, cell) -> None:
    app, _ = tagger_app
    other = live(cell(ADD.format(more=10))["answer"])
    assert other(5) == 15
    assert app(b"1")
    assert other.url != app.url
    for address in (app.url, other.url):
        assert httpx2.get(f"{address}/readyz").status_code == 200


def test_a_changed_model_file_is_deployed_or_the_old_one_goes_on_serving(model) -> None:
    app = model("one ")
    assert app("x") == "one x"
    assert model("two ")("x") == "two x"
    with pytest.raises(DeployError, match="could not be loaded") as caught:
        model("broken")
    assert "this model is broken" in str(caught.value)
    assert app("x") == "two x"
    with interrupted_when(model.is_loading), pytest.raises(Cancelled, match="interrupted"):
        model("slow")
    assert app("x") == "two x"
    assert model("better ")("x") == "better x"


def test_problems_are_told_before_anything_is_deployed(live, cell) -> None:
    names = cell(
        "@step\ndef f(x: int) -> int: return x\n@pipeline\ndef bad(x: str) -> int: return f(x)"
    )
    with pytest.raises(DeployError, match="in the way"):
        live(names["bad"])


def test_what_was_rebuilt_afresh_stays_when_nothing_changes(tagger_app, live, cell) -> None:
    app, names = tagger_app
    (before,) = app(b"1")
    rebuilt = live(names["tag"], fresh=True)(b"1")[0].pid
    assert rebuilt != before.pid
    assert live(cell(LABELS)["tag"])(b"1")[0].pid == rebuilt


def test_another_place_than_the_sessions_is_refused(tagger_app, live, cell) -> None:
    app, names = tagger_app
    with pytest.raises(DeployError, match="session somewhere else"):
        live(names["tag"], address="ray://127.0.0.1:1")
    assert app(b"1")


def test_an_app_is_shut_down_once_and_for_all(live, cell) -> None:
    with live(cell(LABELS)["tag"]) as app:
        assert app(b"1")
    app.shutdown()
    assert "shut down" in repr(app)
    assert not app.status().ready
    assert "stopped" in app._repr_html_()
    with pytest.raises(RequestError, match="shut down"):
        app(b"1")
