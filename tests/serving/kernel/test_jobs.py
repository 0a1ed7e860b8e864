"""Jobs of an app through its application in this process."""

from collections.abc import Iterator

import httpx2
import pandas as pd
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from mlkit import InputError, pipeline, step
from mlkit.errors import RequestError
from mlkit.plan import plan
from mlkit.serving import App, asgi
from mlkit.serving.kernel import jobs
from mlkit.serving.kernel.jobs import JobProgress
from mlkit.serving.kernel.session import Session


class Label(BaseModel):
    name: str
    length: int


@step
def read(text: str) -> Label:
    if not text:
        raise InputError("no text")
    return Label(name=text, length=len(text))


@pipeline
def label(text: str) -> Label:
    return read(text)


@pytest.fixture
def app(tmp_path, record_of, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(jobs, "POLL_S", 0.005)
    (tmp_path / "session").mkdir()
    app = App(Session(tmp_path / "session"), plan(label), record_of(plan(label)))
    with TestClient(asgi(label, token="secret-token")) as client:

        def respond(request: httpx2.Request) -> httpx2.Response:
            answer = client.request(
                request.method,
                request.url.path,
                headers=dict(request.headers),
                content=request.read(),
            )
            return httpx2.Response(answer.status_code, content=answer.content)

        app._sender._transport = httpx2.MockTransport(respond)
        yield app


def test_results_are_a_frame_in_the_order_of_the_inputs(app) -> None:
    job = app.submit(["a", "", "ccc"])
    frame = job.results(progress=False)
    assert list(frame["name"].fillna("-")) == ["a", "-", "ccc"]
    assert list(frame["length"].fillna(0)) == [1, 0, 3]
    assert "no text" in frame["error"][1]
    assert job.progress == JobProgress("done", 3, 3, 1)
    assert str(job.progress) == "3 of 3 done, 1 failed"


def test_a_frame_keeps_its_index(app) -> None:
    photos = pd.DataFrame({"text": ["x", "yy"]}, index=["p", "q"])
    frame = app.submit(photos).results(progress=False)
    assert list(frame.index) == ["p", "q"]
    assert list(frame["length"]) == [1, 2]


def test_a_job_is_found_again(app) -> None:
    job = app.submit(["a"])
    assert list(app.job(job.id).results(progress=False)["name"]) == ["a"]
    with pytest.raises(RequestError, match="there is no job"):
        app.job("nothing")


def test_an_ended_job_stays_when_it_is_cancelled(app) -> None:
    job = app.submit(["a"])
    job.wait(progress=False)
    assert job.cancel().state == "done"
    assert len(job.results(progress=False)) == 1


def test_arguments_are_checked_before_anything_is_sent(app) -> None:
    with pytest.raises(InputError):
        app.submit([{"title": "a", "text": "b"}])
