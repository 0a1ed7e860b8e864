"""What is lost when processes are killed, and how soon what hangs is replaced."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.sessions import DEPLOY_S, in_session, left_after, named
from benchmarks.swap import ended, within
from mlkit.define import branch, step
from mlkit.errors import MlkitError, RequestError
from mlkit.load import closed, load_test, poisson
from mlkit.pipelines import pipeline
from mlkit.serving import App, Limits, deploy
from mlkit.serving.kernel.session import Session

__all__ = ["Call", "Calls", "gap_s", "hung", "kill", "lost"]

STEP_S = 0.05
KILLS_S, KILL_EVERY_S = 120.0, 10.0
LOAD = 0.5
"""Share of the capacity that is asked for."""
AROUND_S = 30.0
"""How long a load lasts in which something is killed once, 3 s after its start."""
KILL_AFTER_S = 3.0
FOLDER_S = 10.0
"""How long the watchdog may take to remove the folder of a killed session after its processes."""
BODIES = (10, 1_000, 30_000, 120_000)
"""Lengths of the payloads in characters; the front end can hold 128 KB."""


class Call(NamedTuple):
    """A call of the app.

    Attributes:
        due_s: when it was to be made, in seconds from the start of the load.
        done_s: when it had ended.
        error: why it failed, or "".
    """

    due_s: float
    done_s: float
    error: str


# ---- analysis ------------------------------------------------------------------------------------


def lost(calls: Sequence[Call]) -> dict[str, int]:
    """Number of failed calls by their error."""
    return dict(Counter(call.error for call in calls if call.error))


def gap_s(calls: Sequence[Call], at_s: float) -> float:
    """How long no call was answered, around or after a moment, in seconds.

    Args:
        calls: the calls of a load.
        at_s: when something was killed.

    Returns:
        the longest time between two answers, of which the second came after that moment; infinite
        if no answer came.
    """
    answered = sorted(call.done_s for call in calls if not call.error)
    before = [done for done in answered if done <= at_s]
    after = [done for done in answered if done > at_s]
    if not after:
        return float("inf")
    return float(np.diff([*before[-1:], *after]).max(initial=after[0] - at_s if not before else 0))


# ---- load ----------------------------------------------------------------------------------------


@dataclass
class Calls:
    """Calls of an app at scheduled times, in threads.

    Args:
        call: makes a call, given its number.
        rate: calls per second.
        threads: calls at a time at most.
    """

    call: Callable[[int], object]
    rate: float
    threads: int = 64
    made: list[Call] = field(default_factory=list)

    def run(self, seconds: float, seed: int = 0) -> list[Call]:
        """Make the calls of a Poisson process."""
        start = time.monotonic()
        with ThreadPoolExecutor(self.threads) as pool:
            for number, due_s in enumerate(poisson(rate=self.rate, seed=seed).times(seconds)):
                time.sleep(max(0.0, start + due_s - time.monotonic()))
                pool.submit(self._make, number, float(due_s), start)
        return self.made

    def _make(self, number: int, due_s: float, start: float) -> None:
        error = ""
        try:
            self.call(number)
        except Exception as failed:  # whatever it is, the caller has no answer
            error = _name_of(failed)
        self.made.append(Call(due_s, time.monotonic() - start, error))


def _name_of(error: Exception) -> str:
    if isinstance(error, RequestError) and error.http_status:
        return f"http {error.http_status}"
    return (error.what if isinstance(error, MlkitError) else repr(error))[:80]


# ---- kill -9 -------------------------------------------------------------------------------------


@step
def work(text: str) -> int:
    """Take a while."""
    time.sleep(STEP_S)
    return len(text)


@pipeline
def mortal(text: str) -> int:
    """The length of a text, after a moment."""
    return work(text)


def kill(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Kill replicas, Serve's controller, HAProxy and the session under load."""
    long_s = seconds or KILLS_S
    with in_session() as session:
        name = session.folder.name
        app = within(
            DEPLOY_S,
            "the deployment",
            partial(deploy, mortal, num_replicas=2, workers=4, progress=False),
        )
        texts = [{"text": "x" * length} for length in BODIES]
        saturated = load_test(
            app, texts, closed(concurrency=16), duration_s=5.0, progress=False
        ).ok_rate
        check()
        # Half of the load is the notebook's client, half is a client that sends once.
        rate = LOAD * saturated / 2
        replicas = _replicas_killed(app, texts, rate, long_s)
        check()
        controller = _killed_once(app, texts, rate, name, "ServeController")
        check()
        front = _killed_once(app, texts, rate, name, "haproxy -db")
        check()
        port = session.about().port
        gone = _session_killed(session, port)
    return {
        "lost": replicas["lost"],
        "lost_raw": replicas["lost_raw"],
        "capacity": saturated,
        "replicas": replicas,
        "controller": controller,
        "haproxy": front,
        "session": gone,
    }


def _replicas_killed(app: App, texts: Any, rate: float, seconds: float) -> dict[str, Any]:
    stop, killed = threading.Event(), list[int]()
    chosen = random.Random(0)

    def killer() -> None:
        while not stop.wait(KILL_EVERY_S):
            pids = [each["pid"] for each in app.placement().replicas if each["pid"]]
            if pids:
                killed.append(chosen.choice(pids))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=killer, daemon=True)
    raw = load_test(
        app, texts, poisson(rate=rate, seed=3), duration_s=seconds, wait=False, progress=False
    )
    try:
        thread.start()
        calls = _called(app, texts, rate, seconds)
        result = ended(raw)
    finally:
        stop.set()
        if not raw.done:
            raw.kill()
    return {
        "kills": len(killed),
        "requests": len(calls),
        "lost": sum(lost(calls).values()),
        "errors": lost(calls),
        "p99_ms": _p99_ms(calls),
        "requests_raw": len(result),
        "lost_raw": int((~result.ok).sum()),
        "errors_raw": result.errors,
        "void": list(result.void),
    }


def _called(app: App, texts: Any, rate: float, seconds: float) -> list[Call]:
    return Calls(lambda number: app(**texts[number % len(texts)]), rate).run(seconds)


def _p99_ms(calls: Sequence[Call]) -> float:
    took = [call.done_s - call.due_s for call in calls if not call.error]
    return 1e3 * float(np.percentile(took, 99)) if took else float("inf")


def _killed_once(app: App, texts: Any, rate: float, session: str, title: str) -> dict[str, Any]:
    """Kill the processes of a kind during a load."""
    pids: list[int] = []

    def strike() -> None:
        for process in named(session, title):
            with suppress(psutil.Error):
                process.kill()
                pids.append(process.pid)

    timer = threading.Timer(KILL_AFTER_S, strike)
    timer.start()
    calls = _called(app, texts, rate, AROUND_S)
    return {
        "killed": len(set(pids)),
        "requests": len(calls),
        "lost": sum(lost(calls).values()),
        "errors": lost(calls),
        "gap_s": gap_s(calls, KILL_AFTER_S),
    }


def _session_killed(session: Session, port: int) -> dict[str, Any]:
    os.kill(session.about().pid, signal.SIGKILL)
    took_s, left, listening = left_after(30.0, session.folder.name, port)
    until = time.monotonic() + FOLDER_S
    while session.folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return {
        "seconds": took_s,
        "processes_left": left,
        "port_taken": listening,
        "folder_left": session.folder.exists(),
    }


# ---- steps that hang -----------------------------------------------------------------------------

HANG_DEADLINE_S = 2.0
HANG_WATCH_S = 60.0
PATTERN = re.compile(r"(a+)+$")
"""Takes years on a text such as ``"aaaa...b"``, and holds the interpreter."""


@step
def kind(text: str) -> str:
    """Which stage a text goes to."""
    return "sound" if text == "sound" else "sick"


@step(stage="sick")
def sick(text: str) -> str:
    """Hang on some texts."""
    if text == "sleep":
        threading.Event().wait()
    elif text == "hold":
        PATTERN.match("a" * 60 + "b")
    return text


@step(stage="sound")
def sound(text: str) -> str:
    """Never hang."""
    return text


@pipeline
def hanging(text: str) -> str:
    """Run one of two stages."""
    return branch(kind(text), {"sick": sick, "sound": sound})(text)


def hung(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Have a step sleep for ever, and another one hold the interpreter, and wait for their stage.

    ``recovered_s`` counts from the deadline of the request that hangs.
    """
    kinds = {}
    with in_session():
        limits = Limits(request_timeout_s=HANG_DEADLINE_S)
        app = within(
            DEPLOY_S,
            "the deployment",
            partial(deploy, hanging, limits=limits, workers=2, progress=False),
        )
        for text, times in (("sleep", 2), ("hold", 1)):
            kinds[text] = _hung(app, text, times, seconds or HANG_WATCH_S)
            check()
    return {"recovered_s": max(one["recovered_s"] for one in kinds.values()), **kinds}


def _hung(app: App, text: str, times: int, watch_s: float) -> dict[str, Any]:
    """Hang all workers of a stage, and call it until it answers; call the other one meanwhile."""
    stop = threading.Event()
    others: list[Call] = []
    start = time.monotonic()

    def call_other() -> None:
        while not stop.wait(0.05):
            due_s = time.monotonic() - start
            error = ""
            try:
                app("sound")
            except MlkitError as failed:
                error = _name_of(failed)
            others.append(Call(due_s, time.monotonic() - start, error))

    thread = threading.Thread(target=call_other, daemon=True)
    thread.start()
    with ThreadPoolExecutor(times) as pool:
        poisoned = [pool.submit(app, text) for _ in range(times)]
        for each in poisoned:
            each.exception()
    late = start + HANG_DEADLINE_S
    tries = 0
    while time.monotonic() < start + watch_s:
        tries += 1
        try:
            app("fine")
            break
        except MlkitError:
            time.sleep(0.05)
    recovered_s = time.monotonic() - late
    stop.set()
    thread.join()
    return {
        "recovered_s": recovered_s,
        "failed_meanwhile": tries - 1,
        "others": len(others),
        "others_failed": sum(lost(others).values()),
        "others_errors": lost(others),
        "others_p99_ms": _p99_ms(others),
    }
