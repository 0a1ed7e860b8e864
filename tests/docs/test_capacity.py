"""The code of docs/capacity.md runs against a server, and the page names what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlkit import cli
from mlkit.load import Capacity, LoadResult, constant
from mlkit.load.records import ClientCost


def run_of(arrivals: Any, duration_s: float, **fields: Any) -> LoadResult:
    """A run of which every response took 20 ms."""
    scheduled = constant(rate=500) if not hasattr(arrivals, "rate") else arrivals
    times = scheduled.times(duration_s)
    count, finished = len(times), times + 0.02
    columns = {
        "intended": times,
        "sent": times,
        "first_byte": finished,
        "finished": finished,
        "status": np.full(count, 200),
        "bytes": np.full(count, 2),
        "payload": np.zeros(count, int),
        "error": np.full(count, "", dtype=np.str_),
        "server_timing": np.full(count, "", dtype=np.str_),
    }
    return LoadResult(
        arrivals=arrivals,
        target="http://127.0.0.1:8000/tag",
        duration_s=duration_s,
        warmup_s=1.0,
        timeout_s=30.0,
        slo_ms=fields.get("slo_ms"),
        seed=0,
        payloads=1,
        started=1.75e9,
        interrupted=False,
        carried=0,
        client=ClientCost(0.2, duration_s, 3, 4),
        failures=(),
        columns=columns,
    )


def test_the_page_runs_from_top_to_bottom(repository: Path, monkeypatch: Any) -> None:
    def load_test(target: Any, payloads: Any, arrivals: Any, **options: Any) -> LoadResult:
        return run_of(arrivals, **options)

    for module in ("mlkit.load", "mlkit.load.capacity", "mlkit.load.sweep"):
        monkeypatch.setattr(sys.modules[module], "load_test", load_test)
    monkeypatch.setattr(sys.modules["mlkit.load.capacity"], "watch", lambda run, progress: run)
    page = (repository / "docs" / "capacity.md").read_text()
    app = SimpleNamespace(name="tag", scale=lambda name, **options: None)
    names: dict[str, Any] = {"app": app, "photos": [b"photo"], "display": print}
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(snippets) == 6
    # The fake has no limit: a capacity needs one.
    snippets = [text.replace("SLO(p99_ms=150))\nlimit ", "SLO(p99_ms=150), max_rate=100)\nlimit ")
                for text in snippets]  # fmt: skip
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"<snippet {number}>", "exec"), names)
    assert isinstance(names["limit"], Capacity)
    assert names["limit"].rate == 100


def test_the_options_of_the_command_exist(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "capacity.md").read_text()
    with pytest.raises(SystemExit):
        cli.main(["load", "--help"])
    shown = capsys.readouterr().out
    section = page[page.index("## From a shell") :]
    options = set(re.findall(r"--[a-z][a-z0-9-]+", section))
    assert {option for option in options if option not in shown} == set()
