"""Pipelines behind their HTTP face without Ray, and one Ray session for all tests that need it."""

import shutil
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from mlkit import ImageSource, InputError, pipeline, step
from mlkit.execute import Executor, compile_graph
from mlkit.execute.local import localise_arguments
from mlkit.serving import Limits, deploy
from mlkit.serving.bundle import Manifest, Origin
from mlkit.serving.control.flags import free_port
from mlkit.serving.control.records import AppRecord, AppSpec, AppState, StageSpec
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.settings import settings_of

ADDRESS = "http://127.0.0.1"


@pytest.fixture
def face():
    """Returns a function: pipeline to a client of its application, with ``served`` and ``ask``."""
    with ExitStack() as stack:

        def make(pipe, *, token=None, limits=None, ready=True):
            executor = stack.enter_context(Executor(compile_graph(pipe.graph), workers=2))
            limits = limits or Limits()
            served = Served(executor, limits)
            app = create_app(pipe.graph, lambda: served if ready else None, limits, token)
            client = TestClient(app, base_url=ADDRESS, follow_redirects=False)
            client.served, client.codec = served, Codec(pipe.graph)
            client.ask = lambda **arguments: ask(client, pipe, arguments)
            return client

        yield make


@pytest.fixture(scope="module")
def listen():
    """Returns a function: ASGI application to its base URL, where it listens."""
    running = []

    def start(application):
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        end = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def record_of():
    """Returns a function: plan and token to what a session would know of that app."""

    def make(planned, token="secret-token"):
        name = planned.graph.name
        spec = AppSpec(
            app=name,
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
            origin=Origin.here(),
            limits=Limits(),
            token=token,
            exact_key="secret-key",
        )
        base = "http://127.0.0.1:1"
        return AppRecord(
            spec=spec,
            state=AppState.SERVING,
            generation=1,
            root=True,
            url=f"{base}/{name}",
            base=base,
            since=0.0,
        )

    return make


def ask(client, pipe, arguments):
    """Calls a pipeline as `App` does: the client's own request, its own reading of the answer."""
    known = {name: arguments[name] for name in arguments if name in client.codec.ports}
    arguments = {**arguments, **localise_arguments(pipe.graph, known)}
    request = client.codec.request(f"{ADDRESS}/{pipe.name}", None, arguments)
    answer = client.post(request.url, headers=request.headers, content=request.body)
    if answer.status_code != 200:
        raise client.codec.error(answer.status_code, answer.content)
    return client.codec.result(answer.content, answer.headers["content-type"])


@pytest.fixture
def tagger():
    """A pipeline that takes a picture and a title, and fails on request."""

    @step
    def look(data: ImageSource, title: str, top: int) -> dict[str, int]:
        if data == b"bad":
            raise InputError("no picture in it", fix="send another")
        if data == b"boom":
            raise ValueError("no boom please")
        return {title or "untitled": len(data) + top}

    @pipeline
    def tag(image: ImageSource, title: str = "", top: int = 0) -> dict[str, int]:
        "Tag one product."
        return look(image, title, top)

    return tag


@pytest.fixture(scope="session")
def runtime_folder():
    """A folder for sessions of this run alone; its path is short, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="mlk-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@step
def same(x: int) -> int:
    return x


@pipeline
def answer(x: int) -> int:
    return same(x)


@pytest.fixture(scope="session")
def live(runtime_folder):
    """Deploys into one Ray session for all tests, in a folder of this run; ends it at the end.

    Starting a replica takes seconds, and new code in a running one does not. So tests share two
    apps, ``answer`` in one process and ``shop`` with a stage ``far`` (``num_cpus=0.1``), which each
    of them deploys anew.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_RUNTIME_DIR", str(runtime_folder))
        session = Session.start()
        kept = deploy(answer, progress=False)  # the last app's end would be the session's
        yield lambda pipe, **options: deploy(pipe, progress=False, **options)
        assert not kept.closed
        session.stop()
        assert processes_of(session.folder.name) == []
        assert not session.folder.exists()


@pytest.fixture
def cell():
    """Returns a function that runs source as a notebook's cell does: in one ``__main__``."""
    names = {"__name__": "__main__"}

    def run(source):
        exec(source, names)
        return names

    run("from mlkit import *\nimport os, sys, time")
    return run
