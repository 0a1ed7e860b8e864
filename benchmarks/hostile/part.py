"""The hostile corpora in one part of ``make bench-trust``; none of it starts Ray."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.hostile.messages import Target, messages, send_all
from benchmarks.hostile.pictures import mutations, survives
from benchmarks.hostile.served import TOKEN, described, serving
from benchmarks.hostile.urls import HARMLESS, HOSTILE, Form, Outcome, attempt, world

__all__ = ["hostile"]

MESSAGES, PICTURES = 1_000, 5_000
BOMB_S, BOMB_MB = 1.0, 150.0
"""What a bomb may take."""


def hostile(check: Callable[[], None], seconds: float | None) -> dict[str, Any]:
    """Send malformed messages, damaged pictures, bombs and URLs that lead inside.

    Args:
        check: raises where the user has interrupted.
        seconds: nothing of it has a length; any makes it a tenth of the messages and pictures.
    """
    count = 1 if seconds is None else 10
    results: dict[str, Any] = {}
    for name, measure in (
        ("ssrf", _urls),
        ("bombs", _bombs),
        ("pictures", lambda: _pictures(PICTURES // count)),
        ("messages", lambda: _messages(MESSAGES // count)),
    ):
        results[name] = measure()
        check()
    return results


def _urls() -> dict[str, Any]:
    async def attempts(forms: Sequence[Form]) -> list[Outcome]:
        outcomes = []
        for form in forms:
            async with world() as inside:
                outcomes.append(await attempt(form, inside))
        return outcomes

    bad, good = asyncio.run(attempts(HOSTILE)), asyncio.run(attempts(HARMLESS))
    return {
        "hits": sum(outcome.hits for outcome in bad),
        "unsafe": [str(outcome.form) for outcome in bad if not outcome.safe],
        "hostile": len(bad),
        "fetched": sum(outcome.body is not None for outcome in good),
        "harmless": len(good),
    }


def _bombs() -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.hostile.pictures"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {
        "bombs": len(reports),
        "outcomes": dict(Counter(report["outcome"] for report in reports)),
        "over": [r["name"] for r in reports if r["s"] > BOMB_S or r["mb"] > BOMB_MB],
        "most_s": max(report["s"] for report in reports),
        "most_mb": max(report["mb"] for report in reports),
    }


def _pictures(count: int) -> dict[str, Any]:
    return {"pictures": count, **Counter(map(survives, mutations(count, seed=1)))}


def _messages(count: int) -> dict[str, Any]:
    pipe: Any = described
    with serving(pipe) as (port, _):
        target = Target(port, "/described", TOKEN)
        answers = asyncio.run(send_all(target, list(messages(target, count, seed=1))))
    return {"messages": count, **answers.summary()}
