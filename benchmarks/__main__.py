"""``python -m benchmarks [pipeline|engine|observe|models|placement|trust|PART ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlkit.errors import Cancelled, MlkitError

__all__ = ["main"]


def main(words: list[str] | None = None) -> int:
    """Measure and write down; the exit status."""
    from benchmarks import models, observe, placement, trust
    from benchmarks.engine import PARTS, measure
    from tools.demo.interrupts import Interrupts

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        default=["pipeline", "engine"],
        help="pipeline: the tagging pipeline against eager torch and its own offline limit; "
        f"engine: all of {', '.join(PARTS)}, which can be named by themselves; "
        f"observe: all of {', '.join(observe.PARTS)}, likewise; "
        f"models: all of {', '.join(models.PARTS)}, likewise; "
        "placement: the rule for replicas and threads; "
        f"trust: all of {', '.join(trust.PARTS)}, likewise; "
        "peers: the tagging pipeline on other servers; "
        "independent: the closed loop against wrk and hey; "
        "exports: exported pipelines of five kinds, each served in an environment of its own; "
        "map: `mlkit map` beside `tag.map`, killed in the middle, and its memory; "
        "revisions: throughput and CPU per request beside those of an earlier revision, `--base`",
    )
    parser.add_argument("--blocks", type=int, default=5, help="of each thing, at least 5")
    parser.add_argument(
        "--seconds",
        type=float,
        help="length of a block, 3 by default; of trust, length of what has one",
    )
    parser.add_argument(
        "--photos", type=Path, help="folder for models, at least 700 photos; for peers, 256"
    )
    parser.add_argument("--rounds", type=int, help="of peers and independent, at least 3")
    parser.add_argument("--quick", action="store_true", help="fewer peers, one round")
    parser.add_argument("--servers", help="names of peers, separated by semicolons")
    parser.add_argument("--base", help="of revisions: the earlier one, a commit or a tag")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args(words)
    arguments.blocks = max(5, arguments.blocks)
    block_s = 3.0 if arguments.seconds is None else arguments.seconds
    groups = {"pipeline", "engine", "observe", "models", "placement", "trust"}
    groups |= {"peers", "independent", "exports", "map", "revisions"}
    known = {*groups, *PARTS, *observe.PARTS, *models.PARTS, *trust.PARTS}
    unknown = set(arguments.parts) - known
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    try:
        with Interrupts() as check:
            if "pipeline" in arguments.parts:
                _measure(arguments, block_s, check)
            parts = [
                part for part in PARTS if part in arguments.parts or "engine" in arguments.parts
            ]
            if parts:
                measure(arguments.out, parts, arguments.blocks, block_s, check)
            asked = set(arguments.parts)
            parts = [part for part in observe.PARTS if asked & {part, "observe"}]
            if parts:
                observe.measure(arguments.out, parts, arguments.blocks, block_s, check)
            parts = [part for part in models.PARTS if asked & {part, "models"}]
            if parts:
                models.measure(
                    parts, models.Settings(arguments.out, arguments.blocks, arguments.photos, check)
                )
            parts = [part for part in trust.PARTS if asked & {part, "trust"}]
            if parts:
                trust.measure(arguments.out, parts, arguments.seconds, check)
            if "placement" in arguments.parts:
                placement.write(arguments.out, arguments.blocks, block_s, check)
            _apart(arguments, block_s, check)
    except (KeyboardInterrupt, Cancelled):
        print("interrupted; everything that was started is ended", file=sys.stderr)
        return 130
    except MlkitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _apart(arguments: argparse.Namespace, block_s: float, check: Callable[[], None]) -> None:
    """What runs in environments and processes of its own."""
    from benchmarks import dataset, exports, revisions
    from benchmarks.peers import independent, runner
    from benchmarks.peers.measuring import Effort

    rounds = max(3, arguments.rounds or Effort.rounds)
    if "peers" in arguments.parts:
        names = arguments.servers.split(";") if arguments.servers else None
        servers = runner.chosen(names, quick=arguments.quick)
        effort = runner.QUICK_EFFORT if arguments.quick else Effort(rounds=rounds)
        runner.measure(arguments.out, servers, effort, arguments.photos, check)
    if "exports" in arguments.parts:
        exports.measure(arguments.out)
    if "map" in arguments.parts:
        dataset.measure(arguments.out, check)
    if "revisions" in arguments.parts:
        revisions.measure(arguments.out, arguments.base, arguments.blocks, block_s, check)
    if "independent" in arguments.parts:
        independent.measure(arguments.out, rounds, block_s, check)


def _measure(arguments: argparse.Namespace, block_s: float, check: Callable[[], None]) -> None:
    from benchmarks.compare import offline_and_eager, served_and_offline
    from mlkit.tagging import tag
    from tools.demo.pictures import load_payloads, sample
    from tools.demo.served import deployed
    from tools.demo.summary import busy, machine

    payloads, facts = load_payloads(sample()), machine(tag)
    times: dict[str, Any] = {
        "blocks": arguments.blocks,
        "seconds": block_s,
        "check": check,
    }
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores, {facts['precision']}")
    _write(arguments.out, "offline_and_eager", offline_and_eager(tag, payloads, **times), facts)
    with deployed(tag, lambda text: None) as (app, _):
        results = served_and_offline(app, tag, payloads, **times)
    _write(arguments.out, "served_and_offline", results, facts)


def _write(out: Path, name: str, results: dict[str, Any], facts: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps({**results, "machine": facts}, indent=2) + "\n")
    print(f"{name.replace('_and_', ' / ')}: rate {results['rate_ratio']['words']}")
    print(f"  CPU a picture {results['cpu_ratio']['words']}\n  {path}")


if __name__ == "__main__":
    sys.exit(main())
