"""A job outlives a replica; only Ray can show it."""

import os
import signal
import time

import pytest

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

CRUNCH = """
from pathlib import Path

from pydantic import BaseModel

class Crunched(BaseModel):
    x: int
    pid: int

@step
def multiply(x: int) -> Crunched:
    (FOLDER / str(os.getpid())).touch()
    while x >= 0 and not (FOLDER / "open").exists():
        time.sleep(0.02)
    return Crunched(x=2 * x, pid=os.getpid())

@pipeline
def answer(x: int) -> Crunched:
    return multiply(x)
"""


def test_a_job_survives_the_death_of_a_replica(live, cell, tmp_path) -> None:
    cell(CRUNCH)["FOLDER"] = tmp_path
    app = live(cell("")["answer"])
    app.scale("answer", 2)
    job = app.submit(range(100))
    while len(at_work := list(tmp_path.iterdir())) < 2:  # each replica has items
        time.sleep(0.05)
    victim = int(at_work[0].name)
    os.kill(victim, signal.SIGKILL)
    (tmp_path / "open").touch()
    assert app(-1).x == -2
    frame = job.results(progress=False)
    assert "error" not in frame
    assert list(frame["x"]) == [2 * x for x in range(100)]
    assert victim not in set(frame["pid"])
