"""``import mlkit`` is quick, and loads none of the heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 0.3
RUNS = 7
HEAVY = {
    "IPython",
    "PIL",
    "aiohttp",
    "fastapi",
    "httpx2",
    "ipywidgets",
    "jinja2",
    "matplotlib",
    "networkx",
    "openvino",
    "pandas",
    "ray",
    "scipy",
    "sklearn",
    "torch",
}
PROBE = """
import json, sys, time
start = time.perf_counter()
import {module}
took = time.perf_counter() - start
print(json.dumps([took, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def measure(module: str, cwd: Path) -> tuple[float, set[str]]:
    """Imports ``module`` in a fresh interpreter; returns the seconds and what is then loaded."""
    # Bytecode is part of how Python imports: without it each run would compile mlkit again.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True)
    took, loaded = json.loads(done.stdout)
    return took, set(loaded)


def test_importing_mlkit_loads_nothing_heavy(repository: Path) -> None:
    assert measure("mlkit", repository)[1] & HEAVY == set()


@pytest.mark.timing
def test_importing_mlkit_is_quick(repository: Path) -> None:
    # The best of several, since others use the machine too; the first may compile.
    best = min(measure("mlkit", repository)[0] for _ in range(RUNS))
    assert best < LIMIT_S


def test_a_heavy_import_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time, networkx\ntime.sleep(0.31)")
    took, loaded = measure("slow", tmp_path)
    assert took > LIMIT_S
    assert loaded & HEAVY == {"networkx"}
