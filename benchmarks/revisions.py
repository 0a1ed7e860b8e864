"""Throughput of this revision beside an earlier one, by turns.

Each revision is deployed once, by a process of its own with a session of its own and the packages
of this environment. A block loads one of them while the other is idle. Throughput varies with the
machine's other work; CPU per request, from ``/proc``, hardly does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from mlkit.errors import MlkitError
from mlkit.load.analysis import ratio
from tools.demo.processes import cpu_times, end, marked, spent

__all__ = ["measure"]

PIPELINES: Final = ("noop", "tagging")

MARK: Final = "MLKIT_RUNTIME_DIR"
"""Variable in the environment of a revision's processes, with a folder of its own."""

ROLES: Final = ("replica", "HAProxy")

WARM_UP_S: Final = 0.3
"""Start of each block that does not count, in seconds."""

WARM_UP_BLOCKS: Final = 2
"""Of each revision, aside: caches fill, and adaptive batching settles."""

PROGRAM: Final = """
import json, sys
from mlkit import pipeline, step
from mlkit.load import closed, load_test
from mlkit.serving import deploy
from mlkit.tagging import tag
from tools.demo.pictures import load_payloads, sample

@step
def same(text: str) -> str:
    return text

@pipeline
def noop(text: str) -> str:
    return same(text)

payloads = {"noop": [{"text": "x" * 970}], "tagging": list(load_payloads(sample()))}
apps = {"noop": deploy(noop, progress=False), "tagging": deploy(tag, progress=False)}
print("READY", flush=True)
for line in sys.stdin:
    name, seconds, warmup_s = line.split()
    result = load_test(
        apps[name], payloads[name], closed(concurrency=16),
        duration_s=float(seconds), warmup_s=float(warmup_s), progress=False,
    )
    answer = {"rate": result.ok_rate, "requests": int(result.ok.sum())}
    print("RESULT", json.dumps(answer), flush=True)
for app in apps.values():
    app.shutdown()
"""


def measure(
    out: Path, base: str | None, blocks: int, seconds: float, check: Callable[[], None]
) -> dict[str, Any]:
    """Load this revision and the base by turns, and write ``revisions.json``.

    Args:
        out: folder of the results.
        base: the earlier revision, as ``git`` names it.
        blocks: of each revision and pipeline that count.
        seconds: length of a block.
        check: raises if the measurement was interrupted.

    Raises:
        MlkitError: the base is missing or unknown, or a revision could not be deployed.
    """
    if not base:
        raise MlkitError("no revision to compare with", fix="pass --base COMMIT")
    here = Path.cwd()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"base": base}
    with ExitStack() as stack:
        tree = stack.enter_context(_checked_out(here, base))
        theirs = stack.enter_context(_deployed(tree))
        mine = stack.enter_context(_deployed(here))
        for name in PIPELINES:
            rows: list[tuple[dict[str, float], dict[str, float]]] = []
            for number in range(WARM_UP_BLOCKS + blocks):
                # Each goes first in every other block, so that effects of the order cancel.
                order = (mine, theirs) if number % 2 else (theirs, mine)
                row = {revision: revision.load(name, seconds) for revision in order}
                rows.append((row[mine], row[theirs]))
                check()
            results[name] = _compared(rows[WARM_UP_BLOCKS:])
            _print(name, results[name])
    path = out / "revisions.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"  {path}")
    return results


class _Revision:
    """A deployed revision; its process takes commands on standard input."""

    def __init__(self, process: subprocess.Popen[str], runtime_dir: str) -> None:
        self._process, self._runtime_dir = process, runtime_dir
        self.read("READY")

    def load(self, name: str, seconds: float) -> dict[str, float]:
        """Load one of its pipelines; return the rate, and CPU per request by role in µs."""
        before = cpu_times(marked(MARK, self._runtime_dir))
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {seconds} {WARM_UP_S}\n")
        self._process.stdin.flush()
        row: dict[str, float] = json.loads(self.read("RESULT"))
        cpu_s = spent(before, cpu_times(marked(MARK, self._runtime_dir)))
        # The requests of the warm-up are not among those counted, but their CPU time is.
        share = seconds / (seconds + WARM_UP_S)
        for role in ROLES:
            row[f"{role}_us"] = 1e6 * cpu_s.get(role, 0.0) * share / max(1.0, row["requests"])
        return row

    def read(self, word: str) -> str:
        """Return the rest of its next line that starts with a word."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line[len(word) :].strip()
        raise MlkitError(f"a revision ended with status {self._process.wait()} before {word}")


@contextmanager
def _checked_out(here: Path, base: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="base") as folder:
        for command in (
            ["git", "clone", "--quiet", "--shared", "--no-checkout", str(here), folder],
            ["git", "-C", folder, "checkout", "--quiet", base],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise MlkitError(f"no revision {base!r}: {done.stderr.strip()}")
        yield Path(folder)


@contextmanager
def _deployed(tree: Path) -> Iterator[_Revision]:
    with tempfile.TemporaryDirectory(prefix="r") as runtime_dir:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": str(tree),
                MARK: runtime_dir,
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield _Revision(process, runtime_dir)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            finally:
                end(MARK, runtime_dir)


def _compared(rows: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Ratio to the base of each figure, with its interval, and both medians."""
    compared: dict[str, Any] = {}
    for figure in rows[0][0]:
        mine = [row[figure] for row, _ in rows]
        theirs = [row[figure] for _, row in rows]
        if min(theirs) > 0:
            measured = ratio(mine, theirs)
            compared[figure] = {
                "value": measured.value,
                "low": measured.low,
                "high": measured.high,
                "this": median(mine),
                "base": median(theirs),
            }
    return compared


def _print(name: str, compared: dict[str, Any]) -> None:
    print(f"{name}: this revision over the base")
    for figure, row in compared.items():
        if figure != "requests":
            print(
                f"  {figure:12} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
                f"  {row['this']:.4g} and {row['base']:.4g}"
            )
