"""Golden requests in a fresh process: ``python -m mlkit.export.replay FOLDER``.

Imports the exported module, calls its pipeline and its application, and prints a JSON object: the
differences by way and request, the top-level modules that were loaded, and whether there may be
compiled models among what it used.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mlkit.export import golden

__all__ = ["main", "replay"]


def replay(
    folder: Path, target: str, fastapi: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Return the differences of an exported pipeline in this process, by way and request.

    Args:
        folder: the exported folder, which is on the search path.
        target: ``MODULE:PIPELINE``.
        fastapi: variable of the module with the application that embeds it.
    """
    recorded = golden.read(folder / "golden")
    module, _, name = target.partition(":")
    imported = importlib.import_module(module)
    pipeline = getattr(imported, name)
    application = getattr(imported, fastapi) if fastapi else None
    called: dict[str, str | None] = {}
    for example in recorded:
        try:
            called[example.name] = golden.call(pipeline, example, {})
        except Exception as error:
            called[example.name] = f"{type(error).__name__}: {error}"
    requests = [example.request for example in recorded]
    answers = golden.exchange_with(pipeline, requests, application)
    compared = {
        example.name: golden.compare(example.answer, answer)
        for example, answer in zip(recorded, answers, strict=True)
    }
    return {"module": called, "application": compared}


def main(folder: str, target: str, fastapi: str | None = None) -> None:
    """Replay in this process, and print the outcome."""
    os.chdir(folder)
    sys.path.insert(0, str(Path.cwd()))
    report: dict[str, Any] = {}
    with redirect_stdout(sys.stderr):
        report["ways"] = replay(Path.cwd(), target, fastapi)
    report["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
    report["has_cache"] = "mlkit.models.cache" in sys.modules
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
