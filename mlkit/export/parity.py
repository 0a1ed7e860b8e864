"""Whether the exported module answers as the pipeline does, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlkit.errors import ExportError

__all__ = ["check_parity", "replayed"]

REPLAY_S = 600


def check_parity(folder: Path, target: str, fastapi: str | None = None) -> set[str]:
    """Replay the golden requests in a fresh process; return the modules that it loaded.

    Raises:
        ExportError: it fails, or its answers differ.
    """
    report = replayed(folder, target, fastapi)
    differences = [
        f"  - request {name}, {way}: {difference}"
        for way, outcomes in report["ways"].items()
        for name, difference in outcomes.items()
        if difference is not None
    ]
    if differences:
        raise ExportError(
            "the exported module does not answer as the pipeline does:\n" + "\n".join(differences),
            where=f"module {target}",
            fix="look for values that differ from run to run, and for state that calls change",
        )
    loaded = set(report["modules"])
    if report["has_cache"]:
        # A compiled model in this machine's cache hides what it takes to compile it elsewhere. Its
        # answers are not compared: what runs fastest is measured again, and may round differently.
        with tempfile.TemporaryDirectory(prefix="mlkit-cache-") as empty:
            loaded |= set(replayed(folder, target, fastapi, cache=empty)["modules"])
    return loaded


def replayed(
    folder: Path, target: str, fastapi: str | None = None, *, cache: str | None = None
) -> dict[str, Any]:
    """Return the report of `mlkit.export.replay` in a fresh process.

    Args:
        folder: the exported folder.
        target: ``MODULE:PIPELINE``.
        fastapi: variable of the module with the application that embeds it.
        cache: folder for compiled models, instead of the user's.

    Raises:
        ExportError: the process fails, such as on import.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = [str(folder), target, *filter(None, [fastapi])]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}
    if cache is not None:
        environment["MLKIT_CACHE_DIR"] = cache
    try:
        done = subprocess.run(  # with -P, nothing from the working directory
            [sys.executable, "-P", "-m", "mlkit.export.replay", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=REPLAY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"the exported module did not answer within {REPLAY_S} s", where=f"module {target}"
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ExportError(
            "the exported module fails in a fresh process: "
            + (lines[-1] if lines else "no output"),
            where=f"module {target}",
            got="\n".join(lines[-12:]),
        )
    report: dict[str, Any] = json.loads(done.stdout)
    return report
