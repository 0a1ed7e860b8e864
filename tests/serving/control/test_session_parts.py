"""What a session is made of, each part alone: its wire, folder, watchdog and HAProxy launcher."""

import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from mlkit.errors import DeployConflict, DeployError, RequestError, SessionError, SessionTimeout
from mlkit.serving import warm_up
from mlkit.serving.control import folders, haproxy, watchdog
from mlkit.serving.control.flags import free_port, ray_environment
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.protocol import PROTOCOL, SOCKET, About, DeleteApp
from mlkit.serving.control.server import listening
from mlkit.serving.kernel import session as session_module
from mlkit.serving.kernel import warming
from mlkit.serving.kernel.client import PreparedRequest
from mlkit.serving.kernel.sender import Sender
from mlkit.serving.kernel.session import Session, notebook_key
from mlkit.serving.retries import MAX_RETRIES, RECEIVED, UNREACHED

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def base(runtime_folder, monkeypatch):
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(runtime_folder))
    return runtime_folder


# ---- the control protocol -----------------------------------------------------------------------


@pytest.fixture
def session(base):
    """Returns a function: from what answers calls to a session that is called."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    session = Session(folders.create())
    servers = []

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    def start(answer):
        servers.append(listening(session.folder, answer))
        run(servers[-1].__aenter__())
        return session

    yield start
    for server in servers:
        run(server.__aexit__(None, None, None))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    folders.remove(session.folder)


def test_a_call_gets_progress_and_then_its_result(session) -> None:
    async def answer(call, say):
        say("half")
        say("done")
        return [call.app]

    said = []
    assert session(answer).call(DeleteApp(app="shop"), say=said.append) == ["shop"]
    assert said == ["half", "done"]


def test_a_large_call_gets_through(session) -> None:
    async def answer(call, say):
        return [str(len(call.app))]

    assert session(answer).call(DeleteApp(app="x" * 1_000_000)) == ["1000000"]


def test_an_error_keeps_its_kind_and_its_parts(session) -> None:
    async def answer(call, say):
        raise DeployConflict("no", where="there", fix="do it", got="RuntimeError: x")

    with pytest.raises(DeployConflict, match="no") as caught:
        session(answer).call(About())
    error = caught.value
    assert (error.where, error.fix, error.got) == ("there", "do it", "RuntimeError: x")


def test_a_bug_of_the_session_is_an_error_of_the_call(session) -> None:
    async def answer(call, say):
        raise KeyError("x")

    with pytest.raises(DeployError, match="KeyError: 'x'"):
        session(answer).call(About())


def test_a_call_that_the_session_does_not_know_is_refused(session, monkeypatch) -> None:
    async def answer(call, say):
        raise AssertionError

    class Fly(About):
        pass

    asked = session(answer)
    with pytest.raises(SessionError, match="no call 'Fly'"):
        asked.call(Fly())
    incomplete = type("DeleteApp", (About,), {})
    with pytest.raises(SessionError, match="DeleteApp: app: Field required"):
        asked.call(incomplete())
    monkeypatch.setattr(session_module, "PROTOCOL", PROTOCOL + 1)
    with pytest.raises(SessionError, match="another version") as caught:
        asked.call(About())
    assert (caught.value.expected, caught.value.got) == (str(PROTOCOL), str(PROTOCOL + 1))


AT_EXIT = """
import atexit, sys
from pathlib import Path
from mlkit.serving.control.protocol import DeleteApp
from mlkit.serving.kernel.session import Session

session = Session(Path(sys.argv[1]))
atexit.register(lambda: session.call(DeleteApp(app="at exit")))
session.call(DeleteApp(app="before"))
"""


def test_a_session_can_be_called_at_exit(session) -> None:
    apps = []

    async def answer(call, say):
        apps.append(call.app)
        return apps

    command = [sys.executable, "-c", AT_EXIT, str(session(answer).folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (apps, ended.stderr) == (["before", "at exit"], "")


def test_a_folder_without_a_session_is_told(base) -> None:
    with pytest.raises(SessionError, match="has ended"):
        Session(base / "none").call(About())


def test_a_caller_that_goes_away_gives_its_call_up(session) -> None:
    begun, given_up = threading.Event(), threading.Event()

    async def answer(call, say):
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.set()
            raise

    with pytest.raises(SessionTimeout):
        session(answer).call(About(), timeout_s=0.2)
    assert begun.is_set()
    assert given_up.wait(5)


# ---- folders ------------------------------------------------------------------------------------


def test_folders_are_for_this_user_alone(base) -> None:
    folder = folders.create()
    try:
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (base, folder, *folder.iterdir())}
        assert modes == {0o700}
        assert folder in folders.all_folders()
    finally:
        folders.remove(folder)
    assert folder not in folders.all_folders()


def test_a_folder_that_others_can_read_is_refused(base, monkeypatch) -> None:
    (base / "o").mkdir()
    (base / "o").chmod(0o755)
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(base / "o"))
    with pytest.raises(SessionError, match="this user alone"):
        folders.base_folder()
    (base / "o").rmdir()


def test_a_link_in_the_folders_place_is_refused(base, monkeypatch, tmp_path) -> None:
    tmp_path.chmod(0o700)
    (base / "l").symlink_to(tmp_path)
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(base / "l"))
    with pytest.raises(SessionError, match="this user alone"):
        folders.base_folder()
    (base / "l").unlink()


def test_a_folder_that_cannot_be_created_is_named(base, monkeypatch) -> None:
    file = base / "f"
    file.touch()
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(file))
    with pytest.raises(SessionError, match=f"{file}: the folder of a session cannot") as raised:
        folders.create()
    assert "MLKIT_RUNTIME_DIR" in str(raised.value.fix)
    file.unlink()


def test_what_was_created_on_a_full_disk_is_removed(base, monkeypatch) -> None:
    monkeypatch.setattr(folders, "LOGS", "missing/logs")
    before = set(base.iterdir())
    with pytest.raises(SessionError, match="cannot be created"):
        folders.create()
    left = set(base.iterdir()) - before
    assert not [path for path in left if (path / folders.BUNDLES).exists()]


def test_a_path_too_long_for_sockets_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(tmp_path / "sessions"))
    with pytest.raises(SessionError, match="too long"):
        folders.base_folder()


# ---- owner and watchdog -------------------------------------------------------------------------


@pytest.fixture
def started():
    """Returns a function that starts a process with a mark; all are ended."""
    processes = []

    def start(mark, command=SLEEP, **options):
        process = subprocess.Popen(command, env={**os.environ, "MLKIT_SESSION": mark}, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def test_an_owner_is_a_process_and_not_a_later_one_of_its_number(started) -> None:
    process = started("x")
    owner = Owner.of(process.pid)
    assert owner.alive
    assert not Owner(owner.pid, owner.started - 60).alive
    process.kill()
    until(lambda: not owner.alive)  # though nobody has waited for it yet


def test_the_watchdog_ends_marked_processes_and_no_others(started) -> None:
    mine, others, child = started("mark-a"), started("mark-ab"), started("mark-a")
    until(lambda: {p.pid for p in watchdog.processes_of("mark-a")} == {mine.pid, child.pid})
    assert watchdog.sweep("mark-a") == 2
    assert mine.poll() is not None
    assert child.poll() is not None
    assert others.poll() is None


def test_a_process_that_does_not_listen_is_killed(started) -> None:
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=1); time.sleep(60)"
    )
    deaf = started("mark-d", [sys.executable, "-c", code], stdout=subprocess.PIPE)
    with deaf.stdout:
        deaf.stdout.readline()
    watchdog.sweep("mark-d", grace_s=0.2)
    assert deaf.wait(5) == -9


def test_the_watchdog_acts_when_the_pipe_closes(started, tmp_path) -> None:
    left = started("mark-w")
    folder = tmp_path / "mark-w"
    folder.mkdir()
    reading, writing = os.pipe()
    script = Path(watchdog.__file__)
    dog = subprocess.Popen(
        [sys.executable, str(script), "mark-w", str(folder), str(reading)], pass_fds=[reading]
    )
    os.close(reading)
    with pytest.raises(subprocess.TimeoutExpired):
        dog.wait(0.5)
    assert left.poll() is None
    os.close(writing)
    assert dog.wait(10) == 0
    assert left.wait(5) != 0
    assert not folder.exists()


# ---- HAProxy ------------------------------------------------------------------------------------

CONFIG = """
global
    maxconn 4096
defaults
    mode http
    option abortonclose
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 502 /nowhere/500.http
    errorfile 503 /nowhere/500.http
    errorfile 504 /nowhere/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind {host}:8000
    http-request return status 200
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture
def launched(tmp_path):
    """Returns a function: host to the configuration as HAProxy gets it, and its command line."""
    (tmp_path / "errors").mkdir()
    spy = tmp_path / "spy"
    spy.write_text('#!/bin/sh\necho "$@"\n')
    spy.chmod(0o700)

    def launch(host="127.0.0.1", binary=str(spy), extra=()):
        config = tmp_path / "haproxy.cfg"
        config.write_text(CONFIG.format(host=host))
        launcher = haproxy.write_launcher(tmp_path, binary)
        command = [str(launcher), *extra, "-db", "-f", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return config.read_text(), done

    return launch


def test_the_launcher_binds_to_loopback_and_passes_its_arguments_on(launched, tmp_path) -> None:
    config, done = launched()
    binds = [line.split()[1] for line in config.splitlines() if "bind " in line]
    assert binds == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert done.stdout.split() == ["-db", "-f", str(tmp_path / "haproxy.cfg")]


def test_the_launcher_leaves_the_front_ends_own_address_alone(launched) -> None:
    assert "bind 0.0.0.0:8000" in launched("0.0.0.0")[0]


def test_haproxy_takes_the_mended_configuration(launched) -> None:
    config, done = launched(binary=haproxy.haproxy_binary(), extra=("-c",))
    assert done.returncode == 0, done.stderr
    assert "/nowhere" not in config
    assert "splice" not in config
    assert "option abortonclose" in config


OWN = (400, 403, 408, 413, 500, 501, 502, 503, 504)
"""Statuses of HAProxy's own answers."""

RESPONSES = {
    "/full": (503, "text/plain; charset=utf-8", b"Request dropped due to backpressure"),
    "/nowhere": (404, "text/plain", b"Path '/nowhere' not found."),
    "/app/missing": (404, "text/plain", b"no such thing"),
    "/app/closed": (503, "text/plain", b"closed on Sundays"),
    "/app/late": (408, "text/plain", b"Request 1 timed out after None s."),
    "/app/slow": (408, "application/problem+json", b"{}"),
    "/app/broken": (500, "text/plain; charset=utf-8", b"Internal Server Error"),
    "/app/died": (500, "text/plain; charset=utf-8", b"Internal Server Error"),
}


class Replica(BaseHTTPRequestHandler):
    """Responds as Serve does."""

    def do_GET(self):
        status, media_type, body = RESPONSES[self.path]
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if self.path.startswith("/app/") and self.path != "/app/died":
            self.send_header("X-Mlkit-Version", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def front_end(tmp_path):
    """Starts HAProxy with the launcher in front of a replica; yields its URL."""
    (tmp_path / "errors").mkdir()
    replica = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    threading.Thread(target=replica.serve_forever).start()
    port = free_port()
    denials = "\n".join(
        f"    http-request deny deny_status {status} if {{ path /own/{status} }}" for status in OWN
    )
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"""defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 503 /nowhere/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
{denials}
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{{}}" if routes
    use_backend nobody if {{ path /nobody }}
    use_backend default_backend if {{ path /unknown }}
    default_backend replicas
backend nobody
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found."
backend replicas
    server one 127.0.0.1:{replica.server_port}
""")
    launcher = haproxy.write_launcher(tmp_path, haproxy.haproxy_binary())
    process = subprocess.Popen([str(launcher), "-db", "-f", str(config)])
    until = time.monotonic() + 10
    while not _answers(port):
        assert time.monotonic() < until
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()
    replica.shutdown()
    replica.server_close()


class Dying:
    """A replica that reads a request and closes the connection, as when its process is killed."""

    def __init__(self) -> None:
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                lengths = [
                    int(line.split(b":")[1])
                    for line in iter(stream.readline, b"\r\n")
                    if line.lower().startswith(b"content-length")
                ]
                stream.read(*lengths)
                self.requests += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def in_front_of(folder, *replicas, tls=None):
    """HAProxy, with the options of a session, before replicas at ports; yields its port.

    Requests to ``/twice`` may be sent again.
    """
    (folder / "errors").mkdir()
    port, flags = free_port(), ray_environment(folder)
    servers = "\n".join(f"    server s{i} 127.0.0.1:{at}" for i, at in enumerate(replicas))
    config = folder / "haproxy.cfg"
    config.write_text(f"""global
    tune.bufsize {flags["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]}
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    option redispatch 1
    retry-on {flags["RAY_SERVE_HAPROXY_RETRY_ON"]}
    retries {flags["RAY_SERVE_HAPROXY_RETRIES"]}
    balance roundrobin
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
{servers}
""")
    launcher = haproxy.write_launcher(folder, haproxy.haproxy_binary(), tls)
    haproxy.replay(folder, ["twice"])
    process = subprocess.Popen([str(launcher), "-db", "-f", str(config)])
    try:
        until = time.monotonic() + 10
        while not _answers(port):
            assert time.monotonic() < until
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def lives():
    """A replica that counts what it gets."""
    with _Counting() as replica:
        thread = threading.Thread(target=replica.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield replica
        replica.shutdown()
        thread.join()


@pytest.fixture
def dies():
    replica = Dying()
    yield replica
    replica.close()


@pytest.fixture
def between(tmp_path, monkeypatch, lives, dies):
    """HAProxy before a replica that dies and one that counts; yields its URL and both."""
    monkeypatch.setattr(haproxy, "BODY_S", 1)
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    with in_front_of(tmp_path, dies.port, lives.server_port) as port:
        yield f"http://127.0.0.1:{port}", lives, dies


class _Counting(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.received = []


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(str(len(body)))))
        self.end_headers()
        self.wfile.write(str(len(body)).encode())

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("length", [0, 10, 30_000, 120_000])
def test_what_a_dying_replica_was_sent_goes_to_another_one(between, length) -> None:
    url, _, dies = between
    with httpx2.Client() as client:  # one connection: its later requests are treated differently
        for _ in range(4):
            response = client.post(f"{url}/twice", content=b"x" * length)
            assert (response.status_code, response.text) == (200, str(length))
    assert dies.requests


def test_what_must_not_run_twice_is_not_sent_again(between) -> None:
    url, _, dies = between
    responses = [httpx2.post(f"{url}/once", content=b"x") for _ in range(4)]
    assert sorted(response.status_code for response in responses) == [200, 200, 502, 502]
    assert dies.requests == 2


def test_a_request_that_kills_its_replica_runs_three_times(tmp_path, dies) -> None:
    with in_front_of(tmp_path, dies.port, dies.port, dies.port, dies.port) as port:
        assert httpx2.post(f"http://127.0.0.1:{port}/twice", content=b"x").status_code == 502
    assert dies.requests == 1 + MAX_RETRIES


def test_so_it_does_with_a_client_that_sends_it_again(tmp_path, dies) -> None:
    with in_front_of(tmp_path, dies.port, dies.port, dies.port, dies.port) as port:
        request = PreparedRequest("POST", f"http://127.0.0.1:{port}/twice", {}, b"{}")
        codec = SimpleNamespace(
            graph=SimpleNamespace(name="twice", idempotent=True),
            error=lambda status, body: RequestError("no", http_status=status),
        )
        sender = Sender(codec, 60.0, tmp_path, lambda *took: None, sleep=lambda seconds: None)
        with pytest.raises(RequestError) as raised:
            sender.send(request)
        sender.close()
    assert raised.value.http_status == 502
    assert dies.requests == 1 + MAX_RETRIES


def test_after_many_that_were_lost_none_is_sent_again(tmp_path, monkeypatch, dies) -> None:
    monkeypatch.setattr(haproxy, "LOST", 2)
    with (
        in_front_of(tmp_path, dies.port, dies.port, dies.port) as port,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        runs = []
        for _ in range(4):
            before = dies.requests
            assert client.post("/twice", content=b"x").status_code == 502
            runs.append(dies.requests - before)
    assert runs == [3, 3, 1, 1]


def test_the_deadline_counts_from_the_reception_at_the_front_end(between) -> None:
    url, lives, dies = between
    before = time.time()
    with httpx2.Client() as client:
        for _ in range(2):  # one of them dies first
            client.post(f"{url}/twice", content=b"x", headers={RECEIVED: "12"})
    assert dies.requests
    values = [headers.get_all(RECEIVED) for headers in lives.received]
    assert [len(each) for each in values] == [1, 1]
    assert all(before <= int(value) / 1e6 <= time.time() for (value,) in values)


def test_haproxy_accepts_tls_beside_its_own_port(tmp_path, lives, certificate) -> None:
    certfile, keyfile = certificate
    tls = haproxy.Tls("127.0.0.1", free_port(), certfile, keyfile)
    tls.check()
    trusted = ssl.create_default_context(cafile=certfile)
    with in_front_of(tmp_path, lives.server_port, tls=tls) as port:
        for url in (f"https://localhost:{tls.port}/twice", f"http://127.0.0.1:{port}/twice"):
            assert httpx2.post(url, content=b"x", verify=trusted).text == "1"
    assert (tmp_path / "tls.pem").stat().st_mode & 0o777 == 0o600


def test_a_certificate_that_cannot_be_used_is_refused_at_once(tmp_path, certificate) -> None:
    certfile, keyfile = certificate
    (tmp_path / "no.pem").write_text("no")
    for files in ((keyfile,), (certfile,), (tmp_path / "none", keyfile), (tmp_path / "no.pem",)):
        with pytest.raises(SessionError, match="the certificate cannot be used"):
            haproxy.Tls("127.0.0.1", 8443, *files).check()


def late(url: str, sent: bytes) -> bytes:
    """The response to a request that does not go on."""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        client.sendall(sent)
        return client.makefile("rb").read()


def test_a_body_that_does_not_arrive_is_a_problem_document(between) -> None:
    url, _, _ = between
    response = late(url, b"POST /twice HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nfew")
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in response
    assert b"did not arrive in time" in response


def test_headers_that_do_not_arrive_hold_no_connection(between) -> None:
    url, _, _ = between
    assert late(url, b"POST /once HTTP/1.1\r\nHost: he").startswith(b"HTTP/1.1 408 ")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serves_own_rejections_are_problem_documents_and_the_apps_are_left_alone(front_end):
    responses = {path: httpx2.get(front_end + path) for path in RESPONSES}
    own = {"/full": 503, "/nowhere": 404, "/app/late": 504, "/app/died": 502}
    own |= {"/unknown": 404, "/-/routes": 404}
    responses |= {path: httpx2.get(front_end + path) for path in own}
    for path, status in own.items():
        assert responses[path].headers["content-type"] == "application/problem+json"
        assert responses[path].status_code == responses[path].json()["status"] == status
    assert responses["/full"].headers["retry-after"] == "1"
    for path in ("/app/missing", "/app/closed", "/app/slow", "/app/broken"):
        status, media_type, body = RESPONSES[path]
        assert (responses[path].status_code, responses[path].content) == (status, body)
        assert responses[path].headers["content-type"] == media_type


def test_haproxys_own_errors_are_problem_documents(front_end) -> None:
    for path, status in [*((f"/own/{status}", status) for status in OWN), ("/nobody", 503)]:
        response = httpx2.get(front_end + path)
        assert response.headers["content-type"] == "application/problem+json", path
        assert response.status_code == response.json()["status"] == status
        assert ("retry-after" in response.headers) == (status in {408, 502, 503, 504})
        assert (UNREACHED in response.headers) == (status == 503)
    assert UNREACHED not in httpx2.get(f"{front_end}/full").headers


def test_the_text_of_a_full_queue_is_still_serves() -> None:
    source = Path(str(find_spec("ray").origin)).parent / "serve/_private/replica.py"
    assert f'"{RESPONSES["/full"][2].decode()}"' in source.read_text()


def test_what_is_edited_is_in_serves_template() -> None:
    source = Path(str(find_spec("ray").origin)).parent / "serve/_private/haproxy_templates.py"
    text = source.read_text()
    for line in (
        "\nfrontend http_frontend\n",
        "    http-request return status 404 content-type text/plain lf-string",
        "    errorfile 503 ",
        "    option splice-request\n",
        "    bind :",
        "  bind *:",
        " if routes\n",
    ):
        assert line in text, line


def test_what_auto_stands_for_is_what_serve_takes_it_for() -> None:
    script = """
from ray.serve.config import AutoscalingConfig
from mlkit.define.options import AUTO
default = AutoscalingConfig.default()
assert {name: getattr(default, name) for name in AUTO} == AUTO
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)  # tests import no Ray


def test_haproxys_manager_starts_it_again_when_it_has_died() -> None:
    script = """
import asyncio, pickle
from types import SimpleNamespace
from mlkit.serving.port.controller import adapt
adapt()
from ray import cloudpickle
from ray.serve._private.haproxy import HAProxyManager
Manager = HAProxyManager.__ray_metadata__.modified_class
Manager = pickle.loads(cloudpickle.dumps(Manager))  # as the controller sends it

class Haproxy:
    def __init__(self):
        self.starts, self._proc = 0, SimpleNamespace(returncode=None)
    def _is_running(self):
        return self._proc.returncode is None
    async def is_running(self):
        return self._is_running()
    async def start(self):
        await asyncio.sleep(0)
        self.starts, self._proc = self.starts + 1, SimpleNamespace(returncode=None)

async def main():
    manager = object.__new__(Manager)
    manager._haproxy, manager._reload_lock = Haproxy(), asyncio.Lock()
    assert await manager.check_health() and manager._haproxy.starts == 0
    manager._haproxy._proc.returncode = -9
    assert all(await asyncio.gather(manager.check_health(), manager.check_health()))
    assert manager._haproxy.starts == 1
    manager._haproxy._proc = None  # it was shut down
    assert not await manager.check_health() and manager._haproxy.starts == 1

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)  # tests import no Ray


def test_ports_are_none_that_a_connection_could_be_given_meanwhile() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert all(30_000 <= port < 32_768 for port in ports)


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        numbers = iter([port, *(other for other in range(30_000, 32_768) if other != port)])
        monkeypatch.setattr("random.randrange", lambda *bounds: next(numbers))
        monkeypatch.setattr("mlkit.serving.control.flags._recent_ports", deque())
        assert free_port() != port


# ---- a session that is slow ---------------------------------------------------------------------


@pytest.fixture
def silent(base):
    """Returns a function: a session that listens and never answers, started by a notebook."""
    listening = []

    def start(notebook):
        folder = folders.create()
        settings = {"owner": {"pid": 1, "started": 0.0}, "notebook": notebook}
        (folder / "settings.json").write_text(json.dumps(settings))
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(folder / SOCKET))
        server.listen()
        listening.append(server)
        return folder

    yield start
    for server in listening:
        server.close()


def test_a_slow_session_is_not_taken_for_a_dead_one(silent, monkeypatch) -> None:
    monkeypatch.setattr(session_module, "ABOUT_TIMEOUT_S", 0.05)
    silent(notebook_key())
    with pytest.raises(SessionTimeout, match=r"did not respond within 0\.05 s"):
        Session.of_this_notebook()


def test_notebooks_that_name_one_session_count_as_one(monkeypatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "one.ipynb")
    assert notebook_key() == "one.ipynb"
    monkeypatch.setenv("MLKIT_SESSION", "demo")
    assert notebook_key() == "demo"


@pytest.mark.parametrize(("name", "ends"), [("", True), ("demo", False)])
def test_only_a_session_with_a_name_outlasts_its_last_app(monkeypatch, session, name, ends) -> None:
    calls = []

    async def answer(call, say):
        calls.append(call)
        return []

    monkeypatch.setenv("MLKIT_SESSION", name)
    asked = session(answer)
    asked.delete("shop")
    assert [(type(call), call.app, call.last_ends) for call in calls] == [(DeleteApp, "shop", ends)]
    assert (asked.folder in session_module._released) is ends
    session_module._released.discard(asked.folder)


# ---- sessions that warm up ----------------------------------------------------------------------

READY = """
import pathlib, sys, time
time.sleep({delay})
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.fixture
def spawned(base, monkeypatch):
    """Returns a function: code of session processes to a list of those that are started."""
    processes = []
    monkeypatch.setattr(warming, "_warming", None)
    monkeypatch.setattr(Session, "of_this_notebook", classmethod(lambda cls: None))

    def run(code):
        def spawn(folder, address, tls):
            environment = {**os.environ, "MLKIT_SESSION": folder.name}
            command = [sys.executable, "-c", code]
            processes.append(subprocess.Popen(command, cwd=folder, env=environment))
            return processes[-1]

        monkeypatch.setattr(session_module, "spawn", spawn)
        return processes

    yield run
    for process in processes:
        process.kill()
        process.wait()
    for folder in list(session_module.started):
        if folder.is_relative_to(base):
            Session(folder).end()


def said(text: str) -> None:
    assert text == "starting Ray and Serve"


def test_a_session_warms_up_once_and_is_what_deploy_waits_for(spawned) -> None:
    processes = spawned(READY.format(delay=0.05))
    warm_up()
    warm_up()
    session = warming.session_at("local", None, said)
    assert session is not None
    assert session.ready
    assert len(processes) == 1
    assert warming.session_at("local", None, said) is None  # it is found like any other


def test_two_threads_warm_up_one_session(spawned) -> None:
    processes = spawned(READY.format(delay=60))
    threads = [threading.Thread(target=warm_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(processes) == 1


def test_nothing_warms_up_beside_a_session(spawned, monkeypatch, base) -> None:
    processes = spawned(READY.format(delay=0))
    monkeypatch.setattr(Session, "of_this_notebook", classmethod(lambda cls: Session(base)))
    warm_up()
    assert processes == []


@pytest.mark.parametrize("error", [SessionError("no"), OSError("no")])
def test_warming_up_never_raises(spawned, monkeypatch, base, error) -> None:
    def fail(folder, address, tls):
        raise error

    spawned("")
    monkeypatch.setattr(session_module, "spawn", fail)
    before = set(base.iterdir())
    warm_up()
    assert warming.session_at("local", None, said) is None
    assert set(base.iterdir()) == before


def test_a_session_that_failed_to_warm_up_leaves_the_cause_to_the_next(spawned) -> None:
    processes = spawned("raise SystemExit(3)")
    warm_up()
    assert warming.session_at("local", None, said) is None
    warm_up()
    assert len(processes) == 2


@pytest.mark.parametrize(("address", "port"), [("local", 8123), ("10.0.0.1:6379", None)])
def test_a_session_that_warms_up_elsewhere_is_ended(spawned, address, port) -> None:
    processes = spawned(READY.format(delay=60))
    warm_up()
    assert warming.session_at(address, port, said) is None
    assert processes[0].poll() is not None


def test_an_interrupted_wait_leaves_the_session_to_the_next(spawned, monkeypatch) -> None:
    processes = spawned(READY.format(delay=0.2))
    warm_up()

    def interrupted(session):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "wait_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            warming.session_at("local", None, said)
    assert warming.session_at("local", None, said) is not None
    assert len(processes) == 1


def test_an_interrupted_start_returns_at_once_and_ends_in_the_background(
    spawned, monkeypatch
) -> None:
    processes = spawned("import signal, time; signal.signal(15, lambda *a: None); time.sleep(60)")
    ended, may_end, end = threading.Event(), threading.Event(), Session.end

    def interrupted(session):
        raise KeyboardInterrupt

    def end_late(session):
        may_end.wait(10)
        session_module.started[session.folder].kill()
        end(session)
        ended.set()

    monkeypatch.setattr(Session, "wait_ready", interrupted)
    monkeypatch.setattr(Session, "end", end_late)
    with pytest.raises(KeyboardInterrupt):
        Session.start()
    assert not ended.is_set()
    assert processes[0].poll() is None
    (folder,) = session_module.started
    assert folder in session_module._released
    may_end.set()
    session_module._wait_for_released()
    assert ended.wait(10)
    assert processes[0].poll() is not None
    assert not folder.exists()


def test_an_explicit_port_waits_for_the_session_that_had_it(base, spawned) -> None:
    spawned(READY.format(delay=60))
    ending = folders.create()
    session_module._released.add(ending)
    timer = threading.Timer(0.1, folders.remove, [ending])
    timer.start()
    Session.begin(port=free_port())
    timer.join()
    assert not ending.exists()
    assert ending not in session_module._released


@pytest.fixture
def left(base):
    """Returns a function: creates the folder of a session whose owner has this id and start."""

    def leave(pid, started=0.0):
        folder = folders.create()
        owner = {"pid": pid, "started": started}
        (folder / "settings.json").write_text(json.dumps({"owner": owner}))
        return folder

    return leave


def test_a_start_removes_what_a_killed_session_and_its_watchdog_have_left(left, started) -> None:
    remains = left(os.getpid())  # another process had this id
    orphan = started(remains.name)
    session_module._clear_remains()
    assert not remains.exists()
    assert orphan.poll() is not None


def test_a_start_leaves_the_folders_of_other_sessions_alone(left, started) -> None:
    mine = Owner.of(os.getpid())
    created, unwritten, ending = left(mine.pid, mine.started), folders.create(), left(mine.pid)
    watches = started("other", [*SLEEP, str(ending)])
    session_module._clear_remains()
    assert all(folder.exists() for folder in (created, unwritten, ending))
    assert watches.poll() is None


def test_a_process_that_hangs_while_it_ends_is_killed() -> None:
    code = "from mlkit.serving.control import watchdog; watchdog.limit(0.05); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    with process:
        assert process.wait(60) == -signal.SIGALRM


def test_another_notebooks_slow_session_is_passed_over(silent, monkeypatch) -> None:
    monkeypatch.setattr(session_module, "ABOUT_TIMEOUT_S", 0.05)
    folder = silent("another notebook")
    session = Session.of_this_notebook()  # None, or one that other tests share
    assert session is None or session.folder != folder
