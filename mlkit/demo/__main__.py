"""``python -m mlkit.demo [--images FOLDER] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlkit.demo import offline, pictures, plain_serve, report, served
from mlkit.errors import MlkitError
from mlkit.execute.cores import cores
from mlkit.load import LoadResult
from mlkit.serving import App, deploy
from mlkit.tagging import tag

DATA = Path(__file__).resolve().parents[2] / "data"


def main() -> int:
    """Run the story and write its report; exit status for the shell."""
    parser = argparse.ArgumentParser(prog="mlkit.demo", description="Run, deploy, load, report.")
    parser.add_argument("--images", type=Path, help="a folder of pictures of your own")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    given = parser.parse_args()
    try:
        chosen = pictures.folder(given.images) if given.images else pictures.catalogue(DATA)
        found = _measure(chosen, given.seconds)
    except MlkitError as error:
        print(error, file=sys.stderr)
        return 1
    report.write(found, given.out)
    print(report.table(found))
    print(f"\nreport: {given.out / 'report.html'}")
    return 0


def _measure(chosen: list[pictures.Picture], seconds: float) -> report.Findings:
    """Everything, one thing at a time, so that nothing shares the cores with what is measured."""
    _say("deploying")
    with deploy(tag, progress=False) as app:
        _say(f"tagging {len(chosen)} pictures over HTTP")
        answers = app.map([p.payload for p in chosen], on_error="keep", progress=False)
        good = [p for p, a in zip(chosen, answers, strict=True) if not isinstance(a, Exception)]
        if not good:
            raise MlkitError("none of the pictures could be tagged", got=str(answers[0]))
        payloads = [p.payload for p in good]
        # Before and after the served runs, so that a machine that drifts does so for both.
        _say("offline")
        speeds = offline.offline(payloads, runs=2, seconds=seconds / 2)
        full, runs = _load(app, payloads, seconds)
        speeds += offline.offline(payloads, runs=2, seconds=seconds / 2)
    _say("eager torch, and plain Ray Serve, for scale")
    images = [p.data for p in good]
    eager = offline.eager(images, seconds=seconds)
    best = offline.median(speeds)
    return report.Findings(
        pictures=chosen,
        answers=answers,
        offline_rps=best.rps,
        offline_cpu_ms=best.cpu_ms,
        eager_rps=eager.rps,
        served_rps=full.rps,
        served_cpu_ms=full.cpu_ms,
        client_cores=full.client_cores,
        plain_rps=plain_serve.measure(images, seconds=seconds),
        runs=runs,
        cores=cores(),
    )


def _load(
    app: App, payloads: list[dict[str, str | bytes]], seconds: float
) -> tuple[served.Saturated, dict[str, LoadResult]]:
    _say("served, saturated")
    full = served.saturated(app, payloads, seconds=seconds)
    runs = {"saturated": full.result}
    for share in (0.3, 0.6):
        _say(f"served, at {share:.0%} of that")
        rate = max(1.0, full.rps * share)
        runs[f"{share:.0%}"] = served.open_loop(app, payloads, rate=rate, seconds=seconds)
    return full, runs


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
