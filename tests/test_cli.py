"""The command line: what is refused at once, and a server from its start to its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

import mlkit
from mlkit import cli, serving
from mlkit.serving.control.haproxy import Tls
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel import deployment
from mlkit.serving.kernel.session import Session

MODULE = """
import sys
from mlkit import pipeline, step

print("this module talks")

@step
def add(x: int, y: int) -> int:
    return x + y

@pipeline
def plus(x: int, y: int = 1) -> int:
    "Add two numbers."
    return add(x, y)
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder with a module in it, where the command is given."""
    (tmp_path / "shop_for_cli.py").write_text(MODULE)
    (tmp_path / "broken_for_cli.py").write_text("import os\nraise RuntimeError('no luck')\n")
    (tmp_path / "needs_for_cli.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("MLKIT_TOKEN", raising=False)
    return tmp_path


def exit_code(*arguments):
    """Runs the command; also where argparse ends it."""
    try:
        return cli.main(list(arguments))
    except SystemExit as end:
        return end.code


def test_the_version_is_printed(capsys) -> None:
    assert exit_code("version") == 0
    assert capsys.readouterr().out == f"mlkit {mlkit.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "-h"], ["doctor", "--help"]])
def test_help_is_no_failure(arguments, capsys) -> None:
    assert exit_code(*arguments) == 0
    assert "usage: mlkit" in capsys.readouterr().out


def test_no_command_is_a_usage_error_that_shows_the_commands(capsys) -> None:
    assert exit_code() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "serve" in err
    assert "doctor" in err


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("nonsense", 2, "MODULE:PIPELINE"),
        (":plus", 2, "MODULE:PIPELINE"),
        ("not_a_module:plus", 2, "no module named 'not_a_module'"),
        ("shop_for_cli:minus", 2, "its pipelines are: plus"),
        ("shop_for_cli:add", 2, "is a Step, not a pipeline"),
        ("shop_for_cli.py:plus", 2, "shop_for_cli:plus"),
        ("broken_for_cli:plus", 1, "RuntimeError: no luck"),
        ("needs_for_cli:plus", 1, "not_there_at_all"),
    ],
)
def test_a_target_that_is_none_is_told(shop, capsys, target, code, words) -> None:
    assert exit_code("serve", target, "--port", "0") == code
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "http"],
        ["--port", "70000"],
        ["--workers", "0"],
        ["--num-replicas", "-1"],
        ["--no-token", "--host", "0.0.0.0"],
        ["--no-token", "--host", "127.0.0.1.example.com"],
        ["--host", "no.such.host.invalid"],
    ],
)
def test_options_that_cannot_be_are_usage_errors(shop, capsys, arguments) -> None:
    assert exit_code("serve", "shop_for_cli:plus", *arguments) == 2
    assert arguments[0].strip("-").split("-")[0] in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "two words", "ümlaut", "line\nbreak"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    shop, capsys, monkeypatch, token
) -> None:
    monkeypatch.setenv("MLKIT_TOKEN", token)
    assert exit_code("serve", "shop_for_cli:plus") == 2
    err = capsys.readouterr().err
    assert "MLKIT_TOKEN" in err
    assert not token or token not in err


def test_a_port_in_use_is_told_at_once(shop, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        began = time.monotonic()
        assert exit_code("serve", "shop_for_cli:plus", "--port", port) == 1
    assert time.monotonic() - began < 5
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["shop"], "URL"),
        (["http://x", "--port", "-1"], "port"),
        (["http://x", "--host", "a b"], "host"),
    ],
)
def test_a_gateway_that_cannot_be_is_a_usage_error(capsys, arguments, word) -> None:
    assert exit_code("grpc", *arguments) == 2
    assert word in capsys.readouterr().err


def test_a_port_that_a_gateway_cannot_have_is_told(capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert exit_code("grpc", "http://127.0.0.1:9", "--port", port) == 1
    assert f"cannot listen on 127.0.0.1:{port} for gRPC" in capsys.readouterr().err


def test_the_doctor_speaks_json(shop, capsys, monkeypatch, runtime_base) -> None:
    code = exit_code("doctor", "--json")
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["healthy"] else 1)
    assert found["installed"]["mlkit"] == mlkit.__version__
    assert found["machine"]["CPU precision"]


def test_starting_the_command_loads_nothing_heavy() -> None:
    code = "import sys, mlkit.cli; mlkit.cli.main(['version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("ray", "torch", "fastapi", "openvino", "pandas", "numpy"):
        assert f"'{name}'" not in done.stdout


class FakeSession:
    """A session without processes, which runs until it is stopped."""

    running = True

    def stop(self) -> None:
        self.running = False


class FakeApp:
    url = "http://127.0.0.1:1/plus"

    def curl(self) -> str:
        return "curl -H @token.txt"


@pytest.fixture
def session(monkeypatch):
    session = FakeSession()
    monkeypatch.setattr(Session, "start", lambda **options: session)
    monkeypatch.setattr(deployment, "deploy_to", lambda *arguments, **options: FakeApp())
    return session


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_with_its_session_when_it_is_told_to(
    shop, capsys, monkeypatch, session, number
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(number))
    assert exit_code("serve", "shop_for_cli:plus", "--port", "0") == 0
    assert not session.running
    out, err = capsys.readouterr()
    assert out == "ready: http://127.0.0.1:1/plus\n"
    assert "curl -H @token.txt" in err


def test_with_a_certificate_the_app_stays_on_loopback_and_the_port_is_for_tls(
    shop, capsys, monkeypatch, session
) -> None:
    started = {}
    monkeypatch.setattr(Session, "start", lambda **options: started.update(options) or session)
    monkeypatch.setattr(Tls, "check", lambda self: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    options = ["--host", "0.0.0.0", "--port", "0", "--certfile", "a.pem"]
    assert exit_code("serve", "shop_for_cli:plus", *options) == 0
    assert (started["host"], started["port"]) == ("127.0.0.1", None)
    tls = started["tls"]
    assert (tls.host, tls.certfile, tls.keyfile) == ("0.0.0.0", Path("a.pem"), None)
    assert capsys.readouterr().out == f"ready: https://127.0.0.1:{tls.port}/plus\n"


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--keyfile", "k.pem"], 2, "--keyfile needs --certfile"),
        (["--certfile", "none.pem"], 1, "none.pem: the certificate cannot be used"),
    ],
)
def test_a_certificate_that_is_none_starts_nothing(shop, capsys, options, code, word) -> None:
    assert exit_code("serve", "shop_for_cli:plus", "--port", "0", *options) == code
    assert word in capsys.readouterr().err


def test_a_server_whose_session_died_ends_with_an_error(shop, capsys, session) -> None:
    session.running = False
    assert exit_code("serve", "shop_for_cli:plus", "--port", "0", "--no-token") == 1
    assert "the session process died" in capsys.readouterr().err


# ---- with Ray -----------------------------------------------------------------------------------


@pytest.fixture
def runtime_base(monkeypatch):
    """A short folder for sessions, which is empty again at the end."""
    folder = Path(f"/tmp/mlc-{os.getpid()}")
    monkeypatch.setenv("MLKIT_RUNTIME_DIR", str(folder))
    yield folder
    left = list(folder.iterdir()) if folder.exists() else []
    assert left == []
    if folder.exists():
        folder.rmdir()


@pytest.fixture
def server(shop, runtime_base):
    """Returns a function that starts the command; its standard output is read until ready."""
    started = []
    environment = {**os.environ, "PYTHONPATH": str(Path(mlkit.__file__).parents[1])}

    def start(*options, **more):
        command = [sys.executable, "-m", "mlkit.cli", "serve", "shop_for_cli:plus", *options]
        with (shop / "err").open("w") as errors:
            process = subprocess.Popen(
                command,
                env={**environment, **more},
                cwd=shop,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def sessions(base):
    return [folder.name for folder in base.iterdir()] if base.exists() else []


def wait_for_session(base, process):
    """The name of the session that a command starts, when Ray is coming up in it."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        for name in sessions(base):
            if len(processes_of(name)) >= 3:
                return name
        time.sleep(0.1)
    raise AssertionError("no session came up")


def stderr_of(shop):
    return (shop / "err").read_text()


@pytest.mark.serve
@pytest.mark.timeout(240)
def test_a_server_answers_until_its_session_dies(server, shop, runtime_base) -> None:
    process = server("--port", "0", MLKIT_TOKEN="s3cret")
    ready = process.stdout.readline()  # nothing is printed before it
    assert ready.startswith("ready: http://127.0.0.1:"), stderr_of(shop)
    url = ready.split()[1]
    headers = {"Authorization": "Bearer s3cret"}
    assert httpx2.post(url, json={"x": 3}, headers=headers).json() == 4
    assert httpx2.post(url, json={"x": 3}).status_code == 401
    (session,) = sessions(runtime_base)
    (host,) = (p for p in processes_of(session) if "mlkit.serving.port" in p.cmdline())
    host.kill()
    assert process.wait(60) == 1
    assert processes_of(session) == []
    assert process.stdout.read() == ""
    errors = stderr_of(shop)
    assert "the session process died" in errors
    assert "this module talks" in errors
    assert "s3cret" not in errors


@pytest.mark.serve
@pytest.mark.timeout(120)
def test_an_interrupt_while_it_comes_up_leaves_nothing(server, shop, runtime_base) -> None:
    process = server("--port", "0", "--no-token")
    session = wait_for_session(runtime_base, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stdout.read() == ""
    assert processes_of(session) == []


def test_a_dataset_is_mapped_with_the_options_of_the_command(shop, monkeypatch, capsys) -> None:
    given = {}

    def map_dataset(pipeline, source, output, **options):
        given.update(options, pipeline=pipeline.name, source=source, output=output)
        return "2 rows"

    monkeypatch.setattr(serving, "map_dataset", map_dataset)
    command = ("map", "shop_for_cli:plus", "rows.parquet", "out", "--id", "sku", "--workers", "2")
    assert exit_code(*command) == 0
    assert capsys.readouterr().out.endswith("2 rows\n")
    wanted = {"pipeline": "plus", "source": "rows.parquet", "output": "out", "id": "sku"}
    assert given.items() >= (wanted | {"address": "local", "batch_size": 512, "workers": 2}).items()


def test_an_interrupted_map_says_that_it_can_go_on(shop, monkeypatch, capsys) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "map_dataset", interrupted)
    assert exit_code("map", "shop_for_cli:plus", "rows.parquet", "out", "--id", "sku") == 130
    assert "the same command continues" in capsys.readouterr().err
