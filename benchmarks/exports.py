"""Exports of five kinds of pipelines, each served in an environment of its own.

Every pipeline is written in a notebook, exported in a fresh process, and verified where nothing of
this checkout is on the search path: mlkit comes from its wheel. One environment has what
``requirements.txt`` says, installed by pip; the others find the packages of this environment by a
path file, since torch for each would take gigabytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError

__all__ = ["KINDS", "Kind", "measure", "write_notebook"]

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "benchmarks" / "exported"
COMMAND_S = 900.0

VERIFY = """
import json, sys
import mlkit
from mlkit.export import verify

outcome = verify(sys.argv[1], serve=True)
ways = {way: dict(found) for way, found in outcome.differences.items()}
print(json.dumps({"mlkit": mlkit.__file__, "differences": ways}))
"""


@dataclass(frozen=True)
class Kind:
    """A pipeline in a notebook, whose cells are in ``benchmarks/exported``.

    Attributes:
        what: what it is an example of.
        files: further files in the notebook's folder.
        fastapi: variable of the application that embeds it.
        installed: whether pip installs its requirements.
    """

    what: str
    files: tuple[str, ...] = ()
    fastapi: str | None = None
    installed: bool = False


KINDS = {
    "quote": Kind("pydantic models with unions", installed=True),
    "standardise": Kind("ndarray and DataFrame"),
    "spell": Kind("streaming step"),
    "moons": Kind("batched step with a torch model"),
    "price": Kind(
        "FastAPI application, helper module and data file",
        files=("rates.py", "prices.csv"),
        fastapi="shop",
    ),
}
"""By the name of the pipeline, which is also that of the file."""


def write_notebook(name: str, folder: Path) -> Path:
    """Write a notebook, and what is beside it."""
    folder.mkdir(parents=True)
    for file in KINDS[name].files:
        shutil.copy2(SOURCES / file, folder)
    _, *cells = (SOURCES / f"{name}.py").read_text().split("# %%\n")
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": cell.strip(),
            }
            for cell in cells
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook))
    return path


def measure(out: Path, names: Sequence[str] = tuple(KINDS)) -> dict[str, Any]:
    """Export and verify each kind, and write what was found to ``exports.json``.

    Raises:
        MlkitError: one could not be exported, installed or served, or an answer differs.
    """
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mlkit-exports-") as scratch:
        wheel = _wheel(Path(scratch))
        for name in names:
            try:
                report[name] = _measured(name, wheel, Path(scratch) / name)
            except MlkitError as error:
                report[name] = {"what": KINDS[name].what, "failed": str(error)}
            print(f"{name}: {json.dumps(report[name])}", flush=True)
            out.mkdir(parents=True, exist_ok=True)
            (out / "exports.json").write_text(json.dumps(report, indent=2) + "\n")
    wrong = {
        name: found.get("failed") or found["differences"]
        for name, found in report.items()
        if "failed" in found or found["differences"]
    }
    if wrong:
        raise MlkitError(
            "exported pipelines fail, or answer differently",
            where=", ".join(wrong),
            got=json.dumps(wrong),
        )
    return report


def _wheel(folder: Path) -> Path:
    """Build mlkit's wheel."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (wheel,) = folder.glob("mlkit-*.whl")
    return wheel


def _measured(name: str, wheel: Path, scratch: Path) -> dict[str, Any]:
    kind, notebook = KINDS[name], write_notebook(name, scratch / "notebook")
    export = scratch / "export"
    command = [sys.executable, "-m", "mlkit.cli", "export", f"{notebook.name}:{name}", str(export)]
    command += ["--fastapi", kind.fastapi] if kind.fastapi else []
    _run(command, notebook.parent, {"PYTHONPATH": str(ROOT)})
    shutil.copy2(wheel, export / "wheels")
    notebook.parent.rename(scratch / "elsewhere")  # nothing may be read from there
    python = _environment(scratch / "venv", export, wheel, installed=kind.installed)
    # Without PYTHONPATH, nothing but the environment is on the search path.
    found = json.loads(_run([str(python), "-c", VERIFY, str(export)], export).splitlines()[-1])
    ways = found["differences"]
    different = {
        way: {number: text for number, text in outcomes.items() if text is not None}
        for way, outcomes in ways.items()
    }
    return {
        "what": kind.what,
        "environment": "pip" if kind.installed else "linked",
        "mlkit_from_wheel": str(scratch / "venv") in found["mlkit"],
        "golden": len(ways["module"]),
        "equal": {way: sum(t is None for t in outcomes.values()) for way, outcomes in ways.items()},
        "differences": {way: found for way, found in different.items() if found},
    }


def _environment(home: Path, export: Path, wheel: Path, *, installed: bool) -> Path:
    """Return the interpreter of a new environment that has what an export needs."""
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    if installed:
        _run([*pip, "-r", "requirements.txt"], export)
        return python
    _run([*pip, "--no-deps", str(wheel)], export)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "linked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **(more or {})},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        raise MlkitError(
            f"`{' '.join(command[:4])} ...` failed",
            where=str(folder),
            got="\n".join((done.stdout + done.stderr).splitlines()[-15:]),
        )
    return done.stdout
