"""Kernels that are killed, come back, or run side by side: sessions of processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlkit.serving.control.watchdog import processes_of

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

FIRST = """
from mlkit import pipeline, step
from mlkit.serving import deploy

@step
def twice(x: int) -> int:
    return 2 * x

@pipeline
def double(x: int) -> int:
    return twice(x)

app = deploy(double, progress=False)
print(app(4), app.session.folder.name, flush=True)
input()
"""

SECOND = """
from mlkit.serving import attach
input()
app = attach()
print(app.name, app(5), app.status().ready)
"""


@pytest.fixture
def kernel(runtime_folder):
    """Returns a function that runs code as a notebook's kernel of a given name does."""
    started = []
    root = str(Path(__file__).resolve().parents[3])

    def start(code, name):
        environment = {
            **os.environ,
            "MLKIT_RUNTIME_DIR": str(runtime_folder),
            "MLKIT_LEASE_S": "8",
            "JPY_SESSION_NAME": name,
            "PYTHONPATH": root,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_kernels_app_is_found_again_and_then_goes_with_its_lease(kernel, live) -> None:
    first = kernel(FIRST, "one.ipynb")
    # They import what they need meanwhile: the lease is short.
    second, stranger = kernel(SECOND, "one.ipynb"), kernel(SECOND, "two.ipynb")
    answer, session = first.stdout.readline().split()  # nothing is printed before it
    assert answer == "8"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate("\n", timeout=60)[0] == "double 10 True\n"

    host = [p for p in processes_of(session) if "mlkit.serving.port" in p.cmdline()]
    assert len(host) == 1  # it waits for its lease to run out
    assert "there is no app to attach to" in stranger.communicate("\n", timeout=60)[0]

    psutil.wait_procs(host, timeout=60)
    end = time.monotonic() + 10
    while processes_of(session) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes_of(session) == []
