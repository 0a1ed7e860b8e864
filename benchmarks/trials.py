"""What must not happen to others: bad items, clients that go away, code that changes under load."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.small import hashes
from mlkit.define import step
from mlkit.execute import Executor, compile_graph
from mlkit.pipelines import Pipeline
from mlkit.serving import App

__all__ = ["disconnect", "poison", "redeploy"]


def poison(requests: int = 2000) -> dict[str, Any]:
    """One request in ten is bad, in batches of eight: do the others get what they would alone?"""
    program = compile_graph(hashes.graph)
    texts = [f"{'bad' if i % 10 == 3 else 'good'} {i}" for i in range(requests)]
    results: list[Any] = [None] * requests
    ended = threading.Semaphore(0)
    with Executor(program, workers=2) as executor:

        def submit(i: int) -> None:
            def on_done(execution: Any) -> None:
                results[i] = execution.error or execution.output
                ended.release()

            executor.submit({"text": texts[i]}, on_done)

        for i in range(requests):
            submit(i)
        for _ in range(requests):
            ended.acquire()
        sizes = executor.batch_sizes()["digest"]
    good = [i for i, text in enumerate(texts) if text.startswith("good")]
    alone = {i: hashes.graph["digest"].step.fn([texts[i]])[0] for i in good[:200]}
    return {
        "requests": requests,
        "good_failed": sum(isinstance(results[i], Exception) for i in good),
        "bad_answered": sum(
            not isinstance(results[i], Exception) for i in range(requests) if i not in set(good)
        ),
        "different_from_unbatched": sum(results[i] != value for i, value in alone.items()),
        "calls": sum(sizes.values()),
        "calls_without_bad_ones": -(-requests // 8),
        "extra_calls": sum(sizes.values()) - -(-requests // 8),
    }


def disconnect(app: App, rounds: int = 10, clients: int = 100) -> dict[str, Any]:
    """Clients that go away while their batch runs, over and over; then everybody is answered.

    Args:
        app: `small.hashes`, served.
        rounds: how many times.
        clients: how many go away each time.
    """
    answered, failed = 0, 0
    request = app.prepare("good one")
    for _ in range(rounds):
        gone = [_sent(request) for _ in range(clients)]
        staying = [_Asking(request) for _ in range(20)]
        time.sleep(0.02)
        for connection in gone:
            connection.close()
        for client in staying:
            client.thread.join()
            answered += client.status == 200
            failed += client.status != 200
    until = time.monotonic() + 10
    full = 0
    while time.monotonic() < until:  # as many at once as it takes: every slot has to be free
        burst = [_Asking(request) for _ in range(200)]
        for client in burst:
            client.thread.join()
        full = sum(client.status == 200 for client in burst)
        if full == 200:
            break
    return {
        "gone": rounds * clients,
        "others_answered": answered,
        "others_failed": failed,
        "lost_slots": 200 - full,
    }


def _sent(request: Any) -> socket.socket:
    """A request on a connection of its own whose answer nobody will read."""
    at = urlsplit(request.url)
    connection = socket.create_connection((at.hostname, at.port), timeout=10)
    lines = [f"POST {at.path} HTTP/1.1", f"Host: {at.netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += [f"Content-Length: {len(request.body)}", "", ""]
    connection.sendall("\r\n".join(lines).encode() + request.body)
    return connection


class _Asking:
    def __init__(self, request: Any) -> None:
        self.status = 0
        self._request = request
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self) -> None:
        request = self._request
        try:
            answer = httpx2.post(
                request.url, headers=request.headers, content=request.body, timeout=30
            )
            self.status = answer.status_code
        except httpx2.HTTPError:
            self.status = -1


@dataclass
class _Steady:
    """Clients that ask all the time, and what they got when."""

    app: App
    payload: str
    clients: int = 4
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Steady:
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        request = self.app.prepare(self.payload)
        with httpx2.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(request.url, headers=request.headers, content=request.body)
                    self.answers.append((time.monotonic(), answer.status_code, answer.json()))
                except httpx2.HTTPError as error:
                    self.answers.append((time.monotonic(), -1, str(error)))


def redeploy(
    pipeline: Pipeline[..., Any],
    deploy: Callable[[Pipeline[..., Any]], App],
    changes: int = 5,
    least: int = 2000,
) -> dict[str, Any]:
    """Change two functions again and again under four steady clients.

    Args:
        pipeline: `small.staged`.
        deploy: deploys a pipeline, fused or in stages.
        changes: how many times at least.
        least: requests to be made in all.
    """
    app = deploy(pipeline)
    seconds: list[float] = []
    restarted: set[str] = set()
    with _Steady(app, "x") as steady:
        time.sleep(0.5)
        number = 0
        while number < changes or len(steady.answers) < least:
            number += 1
            mark = f"changed {number}"
            began = time.monotonic()
            updated = deploy(
                pipeline.replace(third=_marked("third", mark), fourth=_marked("fourth", mark))
            )
            restarted |= {c.stage for c in updated.changes if c.action in ("started", "restarted")}
            first = next((t for t, _, text in steady.answers if mark in str(text)), None)
            while first is None:
                time.sleep(0.005)
                first = next((t for t, _, text in steady.answers if mark in str(text)), None)
            seconds.append(first - began)
    bodies = [text for _, status, text in steady.answers if status == 200]
    return {
        "changes": number,
        "requests": len(steady.answers),
        "failed": sum(status != 200 for _, status, _ in steady.answers),
        "code_s": {
            "value": sorted(seconds)[len(seconds) // 2],
            "low": min(seconds),
            "high": max(seconds),
        },
        "models_loaded_again": len({text.rsplit(" ", 1)[1] for text in bodies}) - 1,
        "mixed": sum(map(_is_mixed, bodies)),
        "restarted": sorted(restarted),
    }


def _marked(name: str, mark: str) -> Any:
    """A step of that name with a mark in its result; a function of its own each time."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def {name}(text: str) -> str:\n    return text + ' {name}={mark}'", names)
    stages = {"third": "three", "fourth": "four"}
    return step(stage=stages[name])(names[name])


def _is_mixed(text: str) -> bool:
    """Whether an answer has the marks of two versions."""
    marks = set(re.findall(r"(?:third|fourth)=changed (\d+)", text))
    return len(marks) > 1 or text.count("=changed") not in (0, 2)
