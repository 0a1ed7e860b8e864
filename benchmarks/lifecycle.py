"""What is left of a notebook that is interrupted, killed, or started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.sessions import left_after
from mlkit.errors import MlkitError
from mlkit.serving.control import folders

__all__ = ["Ending", "lifecycle", "summary"]

INTERRUPTS, LONGEST_S = 10, 20.0
"""How often a script is interrupted, and how late at most, in seconds from its start."""
FREE_S, LEASE_S = 10.0, 20.0
START_S = 240.0

SCRIPT = '''
"""Defines a pipeline, deploys it, calls it; says what it has come to, line by line."""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from mlkit import pipeline, step
from mlkit.errors import Cancelled
from mlkit.serving import attach, deploy

@step
def double(x: float) -> float:
    return 2 * x

@pipeline
def living(x: float) -> float:
    return double(x)

def say(word):
    print(word, time.time(), flush=True)

say("begin")
try:
    app = attach("living") if sys.argv[1] == "attach" else deploy(living, progress=False)
    say("ready")
    while sys.argv[1] != "attach":
        app(1.0)
    assert app(2.0) == 4.0
    say("answered")
except (KeyboardInterrupt, Cancelled):
    say("prompt")
'''


class Ending(NamedTuple):
    """What was left of a script.

    Attributes:
        at_s: when it was ended, in seconds from its first line.
        prompt_s: how long after that it could go on; infinite if it never did.
        freed_s: how long after its end its processes and ports were gone.
        processes: those left then.
        ports: those taken still.
    """

    at_s: float
    prompt_s: float
    freed_s: float
    processes: int
    ports: int


def summary(endings: Sequence[Ending]) -> dict[str, Any]:
    """The worst of all endings, with their number."""
    return {
        "times": len(endings),
        "orphans": sum(ending.processes for ending in endings),
        "ports_taken": sum(ending.ports for ending in endings),
        "prompt_s": max(ending.prompt_s for ending in endings),
        "freed_s": max(ending.freed_s for ending in endings),
        "at_s": [round(ending.at_s, 1) for ending in endings],
    }


class Script:
    """A script in a process of its own, in a folder that makes it a notebook of its own.

    Args:
        folder: for the script and its session.
        what: ``"deploy"`` or ``"attach"``.
    """

    def __init__(self, folder: Path, what: str) -> None:
        path = folder / "notebook.py"
        path.write_text(SCRIPT)
        self.log = folder / f"{what}.log"
        root = str(Path(__file__).resolve().parents[1])
        environment = {
            **os.environ,
            "MLKIT_LEASE_S": str(LEASE_S),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(path), what],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    def said(self) -> Mapping[str, float]:
        """What it has said so far, and when."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return {line[0]: float(line[1]) for line in lines if len(line) == 2 and _is_time(line[1])}

    def wait_for(self, word: str, seconds: float) -> float:
        """Wait until it says a word; the time.

        Raises:
            MlkitError: it does not.
        """
        until = time.monotonic() + seconds
        while word not in (said := self.said()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise MlkitError(
                    f"the script has not come to {word!r}",
                    where="lifecycle",
                    got=self.log.read_text()[-2000:],
                )
            time.sleep(0.02)
        return said[word]

    def sessions(self) -> list[tuple[str, int]]:
        """Name and port of its sessions, also of those that are not ready yet."""
        found = []
        for folder in folders.all_folders():
            try:
                settings = json.loads((folder / "settings.json").read_text())
            except (OSError, ValueError):  # just begun, or just ended
                continue
            if settings["owner"]["pid"] == self.process.pid:
                found.append((folder.name, settings["port"]))
        return found


def _is_time(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


@contextmanager
def _script(what: str, folder: Path) -> Iterator[Script]:
    script = Script(folder, what)
    try:
        yield script
    finally:
        if script.process.poll() is None:
            script.process.kill()
        script.process.wait()


def lifecycle(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Interrupt scripts at random moments, kill one, and attach to the app of another.

    Args:
        check: raises where the user has interrupted.
        seconds: the latest moment of an interrupt.
    """
    chosen = random.Random(0)
    moments = [chosen.uniform(0.0, seconds or LONGEST_S) for _ in range(INTERRUPTS)]
    interrupted = []
    for moment in moments:
        with tempfile.TemporaryDirectory() as folder, _script("deploy", Path(folder)) as script:
            interrupted.append(_ended(script, moment, signal.SIGINT))
        check()
    with tempfile.TemporaryDirectory() as folder, _script("deploy", Path(folder)) as script:
        script.wait_for("ready", START_S)
        killed = _ended(script, 0.5, signal.SIGKILL)
    check()
    return {
        "orphans": summary([*interrupted, killed])["orphans"],
        "interrupted": summary(interrupted),
        "killed": killed._asdict(),
        "attach": _attached(),
    }


def _ended(script: Script, moment_s: float, number: signal.Signals) -> Ending:
    """End a script by a signal, and look at what is left of it."""
    begun = script.wait_for("begin", START_S)
    time.sleep(max(0.0, begun + moment_s - time.time()))
    sessions = script.sessions()
    sent = time.time()
    script.process.send_signal(number)
    while script.process.poll() is None and time.time() < sent + 60:
        sessions = list({*sessions, *script.sessions()})
        time.sleep(0.05)
    prompt_s = script.said().get("prompt", float("inf")) - sent
    if number == signal.SIGKILL:
        prompt_s = 0.0
        allowed_s = LEASE_S + 2 * FREE_S
    else:
        allowed_s = FREE_S
    left = [left_after(allowed_s, *session) for session in sessions]
    return Ending(
        sent - begun,
        prompt_s,
        max((took_s for took_s, _, _ in left), default=0.0),
        sum(processes for _, processes, _ in left),
        sum(listening for _, _, listening in left),
    )


def _attached() -> dict[str, Any]:
    """Kill a kernel, and have the next one find the app."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _script("deploy", folder) as first:
            first.wait_for("ready", START_S)
            sessions = first.sessions()
        with _script("attach", folder) as second:
            begun = second.wait_for("begin", START_S)
            answered = second.wait_for("answered", START_S)
            second.process.wait(60)
        left = [left_after(LEASE_S + 2 * FREE_S, *session) for session in sessions]
    return {
        "answered_s": answered - begun,
        "orphans": sum(processes for _, processes, _ in left),
        "freed_s": max(took_s for took_s, _, _ in left),
    }
