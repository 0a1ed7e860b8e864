"""Workers that are forked, without Ray: a script stands in for Ray's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlkit.serving.port import forkserver, imports, start_worker
from mlkit.serving.port.forkserver import WorkerRequest, acceptable

WORKER = """
import json, os, sys
import numpy
print(json.dumps({
    "arguments": sys.argv, "folder": os.getcwd(), "path": sys.path[0], "name": __name__,
    "mine": os.environ.get("MINE"), "added": os.environ.get("ADDED"),
    "children": __import__("subprocess").run(["true"]).returncode,
    "pid": os.getpid(), "group": os.getpgid(0), "parent": os.getppid(),
    "draw": numpy.random.random(), "ready": "fastapi" in sys.modules,
}))
"""
USUAL = 'import sys; print("as usual", sys.argv[1:])'


def request(*arguments: str, **environment: str) -> WorkerRequest:
    return WorkerRequest(["worker.py", *arguments], environment, "/")


@pytest.mark.parametrize(
    ("asked", "accepted"),
    [
        (request(), True),
        (request("--language=PYTHON"), True),
        (request("--language", "JAVA"), False),
        (request(MINE="1", RAY_JOB_ID="ffffffff", TZ="UTC"), True),
        (request(OMP_NUM_THREADS="1"), False),
        (request(PYTHONPATH="elsewhere"), False),
        (request('--serialized-runtime-env-context={"env_vars": {"A": "1"}}'), True),
        (request('--serialized-runtime-env-context={"env_vars": {"MKL_CBWR": "1"}}'), False),
        (request('--serialized-runtime-env-context={"command_prefix": ["podman"]}'), False),
        (request('--serialized-runtime-env-context={"py_executable": "python4"}'), False),
        (
            request("--serialized-runtime-env-context", f'{{"py_executable": "{sys.executable}"}}'),
            True,
        ),
        (request('--serialized-runtime-env-context={"override_worker_entrypoint": "x"}'), False),
    ],
)
def test_a_worker_is_forked_if_it_would_be_the_same(asked: WorkerRequest, accepted: bool) -> None:
    assert acceptable(asked, {}) is accepted


def test_a_variable_of_the_server_that_a_worker_lacks_counts() -> None:
    assert not acceptable(request(), {"LD_PRELOAD": "libjemalloc.so"})


def test_options_of_the_setup_are_consumed() -> None:
    asked = request("--a=1", "--language=PYTHON", "--serialized-runtime-env-context", "{}", "--b")
    assert asked.worker_arguments == ["worker.py", "--a=1", "--b"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fork")
    (folder / "worker.py").write_text(WORKER)
    (folder / "setup_worker.py").write_text(USUAL)
    with forkserver.running(folder):
        yield folder


def started(folder: Path, *arguments: str, **environment: str) -> str:
    """The output of a worker."""
    process = subprocess.run(
        [sys.executable, start_worker.__file__, str(folder / "worker.py"), *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not process.stderr
    return process.stdout


def test_a_worker_runs_as_in_a_process_of_its_own(server: Path) -> None:
    context = json.dumps({"env_vars": {"ADDED": "${MINE}2"}})
    first, second = (
        json.loads(started(server, "--x", f"--serialized-runtime-env-context={context}", MINE="1"))
        for _ in range(2)
    )
    assert first["arguments"] == [str(server / "worker.py"), "--x"]
    assert first["folder"] == first["path"] == str(server)
    assert (first["name"], first["mine"], first["added"]) == ("__main__", "1", "12")
    assert first["children"] == 0
    assert first["group"] == first["pid"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["draw"] != second["draw"]
    assert first["ready"]


def test_a_worker_that_cannot_be_forked_starts_as_usual(server: Path) -> None:
    worker = str(server / "worker.py")
    assert started(server, "--x", OMP_NUM_THREADS="3") == f"as usual {[worker, '--x']}\n"
    assert started(server, MLKIT_FORK_SERVER=str(server / "none")).startswith("as usual")
    assert started(server, MLKIT_FORK_SERVER="").startswith("as usual")


def test_many_workers_at_once(server: Path) -> None:
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(started(server))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.loads(text)["pid"] for text in said}) == 8


def test_the_server_ends_with_its_owner(tmp_path: Path) -> None:
    with forkserver.running(tmp_path):
        assert os.environ[start_worker.SOCKET] == str(tmp_path / "fork")
    assert start_worker.SOCKET not in os.environ
    assert not (tmp_path / "fork").exists()


def test_a_deferred_grammar_is_complete_when_used() -> None:
    pytest.importorskip("rfc3987_syntax")
    program = (
        "import sys\n"
        "from mlkit.serving.port.imports import deferred_grammar\n"
        "with deferred_grammar():\n"
        "    import jsonschema\n"
        "assert 'rfc3987_syntax' not in sys.modules\n"
        "check = jsonschema.FormatChecker()\n"
        "print(check.conforms('http://a', 'iri'), check.conforms('no iri', 'iri'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_a_script_runs_with_the_grammar_deferred(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("import sys\nprint(sys.argv, sys.path[0], __name__)")
    script = str(tmp_path / "agent.py")
    done = subprocess.run(
        [sys.executable, imports.__file__, script, "-x"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{[script, '-x']} {tmp_path} __main__\n"
