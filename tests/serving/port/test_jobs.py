"""A job outlives a replica; only Ray can show it."""

import os
import signal
import time

import pytest

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

CRUNCH = """
from pydantic import BaseModel

class Crunched(BaseModel):
    x: int
    pid: int

@step
def multiply(x: int) -> Crunched:
    time.sleep(0.02)
    return Crunched(x=2 * x, pid=os.getpid())

@pipeline
def answer(x: int) -> Crunched:
    return multiply(x)
"""


def test_a_job_survives_the_death_of_a_replica(live, cell) -> None:
    app = live(cell(CRUNCH)["answer"])
    app.scale("answer", 2)
    victim = app(1).pid
    job = app.submit(range(500))
    while job.progress.done < 50:
        time.sleep(0.05)
    assert app(1).x == 2  # while the job runs
    os.kill(victim, signal.SIGKILL)
    frame = job.results(progress=False)
    assert "error" not in frame
    assert list(frame["x"]) == [2 * x for x in range(500)]
    assert victim in set(frame["pid"])  # it had a part in it
    assert len(set(frame["pid"])) >= 2
