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
    "av",
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
    "soundfile",
    "torch",
}
# Processor time: on a machine with nothing else to do it is the time that passes, and on a busy one
# it is still what the import costs.
PROBE = """
import json, sys, time
start = time.process_time()
import {module}
took = time.process_time() - start
print(json.dumps([took, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def measure(module: str, cwd: Path) -> tuple[float, set[str]]:
    """Imports ``module`` in a fresh interpreter; returns its seconds and what is then loaded."""
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
    # The best of several: the first may compile, and caches are shared with others.
    best = min(measure("mlkit", repository)[0] for _ in range(RUNS))
    assert best < LIMIT_S


def test_a_heavy_import_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, networkx\nwhile time.process_time() < 0.5: pass"
    )
    took, loaded = measure("slow", tmp_path)
    assert took > LIMIT_S
    assert loaded & HEAVY == {"networkx"}
