"""The closed loop against those of other generators: ``python -m benchmarks independent``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.peers.catalogue import Server
from benchmarks.peers.running import running
from mlkit.load import closed, load_test
from mlkit.load.requests import HttpRequest

__all__ = ["TOOLS", "agree", "command", "measure", "rate_in"]

CLIENTS = 16
MOST_APART = 0.10
TOOLS = ("wrk", "hey")


@dataclass(frozen=True)
class Load:
    """The one request that all generators send."""

    path: str
    kind: str
    body: bytes

    def request(self, port: int) -> HttpRequest:
        """The request, to a port of this machine."""
        headers = {"Content-Type": self.kind}
        return HttpRequest(
            url=f"http://127.0.0.1:{port}{self.path}", headers=headers, body=self.body
        )


def command(tool: str, asked: HttpRequest, seconds: float, folder: Path) -> list[str]:
    """How a tool sends the load with 16 clients; its body and script are put into the folder."""
    body = folder / "body"
    body.write_bytes(asked.body)
    kind = asked.headers["Content-Type"]
    if tool == "hey":
        options = ["-z", f"{seconds:g}s", "-c", str(CLIENTS), "-m", "POST", "-T", kind]
        return ["hey", *options, "-D", str(body), asked.url]
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{kind}"\n'
        f'local file = io.open("{body}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
    )
    return ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds:g}s", "-s", str(script), asked.url]


def rate_in(printed: str) -> float:
    """Requests per second in the output of either tool.

    Raises:
        ValueError: it says none, or that requests failed.
    """
    found = re.search(r"Requests/sec:\s*([\d.]+)", printed)
    if found is None or "Non-2xx" in printed or re.search(r"\[[345]\d\d\]", printed):
        raise ValueError(f"no rate of good answers: {printed[-300:]}")
    return float(found[1])


def agree(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The ratio of mean rates, and whether it is within a tenth of 1."""
    value = fmean(ours) / fmean(theirs)
    return {
        "ratio": value,
        "agrees": abs(value - 1) <= MOST_APART,
        "mlkit": list(ours),
        "other": list(theirs),
    }


def measure(out: Path, rounds: int, seconds: float, check: Callable[[], None]) -> None:
    """Measure by turns, and write ``independent.json``."""
    from tools.demo.pictures import sample

    image = sample()[0].path.read_bytes()
    question = json.dumps({"question": {"text": "x" * 900, "number": 1}}).encode()
    served = ("-m", "mlkit.cli", "serve", "--no-token", "--port", "{port}")
    json_server = Server("mlkit-echo", (*served, "benchmarks.small:echo"), path="/echo")
    tag_server = Server("mlkit-tag", (*served, "mlkit.tagging:tag"))
    results: dict[str, Any] = {}
    for tool in TOOLS:
        if shutil.which(tool) is None:
            print(f"{tool} is not installed, and is left out (Debian: apt-get install {tool})")
            results[tool] = "not installed"
    found = [tool for tool in TOOLS if tool not in results]
    for name, server, kind, body in (
        ("json", json_server, "application/json", question),
        ("tagging", tag_server, "image/jpeg", image),
    ):
        if found:
            load = Load(server.path, kind, body)
            with running(server, load.request, out / "peers-logs") as up:
                results[name] = _by_turns(found, load.request(up.port), rounds, seconds, check)
            for tool, one in results[name].items():
                print(f"independent, {name}: mlkit's rate over {tool}'s: {one['ratio']:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "independent.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"  {out / 'independent.json'}")


def _by_turns(
    tools: Sequence[str], asked: HttpRequest, rounds: int, seconds: float, check: Callable[[], None]
) -> Mapping[str, Any]:
    def closed_rate() -> float:
        arrivals = closed(concurrency=CLIENTS)
        return load_test(asked.url, [asked], arrivals, duration_s=seconds, progress=False).ok_rate

    closed_rate()  # warms up
    ours: list[float] = []
    theirs: dict[str, list[float]] = {tool: [] for tool in tools}
    with tempfile.TemporaryDirectory() as folder:
        commands = {tool: command(tool, asked, seconds, Path(folder)) for tool in tools}
        for _ in range(rounds):
            ours.append(closed_rate())
            for tool, words in commands.items():
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                theirs[tool].append(rate_in(done.stdout))
                check()
    return {tool: agree(ours, rates) for tool, rates in theirs.items()}
