"""Waiting until what was rolled out is what answers."""

from __future__ import annotations

import math
import time
import urllib.request
from collections.abc import Callable

from mlkit.errors import Cancelled, DeployError
from mlkit.serving.control.rollout import StageTarget
from mlkit.serving.port import rayserve
from mlkit.serving.replica.front import VERSION_PATH

__all__ = ["wait_answers", "wait_loaded"]

ANSWER_TIMEOUT_S = 30.0


def wait_loaded(stage: StageTarget, given_up: Callable[[], bool]) -> None:
    """Wait until the replicas of a stage have its version.

    Raises:
        DeployError: they could not load it; what they had they still serve.
        Cancelled: it was given up.
    """
    count = rayserve.replicas_of(stage.target)
    have: set[int] = set()
    until = math.inf
    while len(have) < count and time.monotonic() < until:
        if given_up():
            raise Cancelled("the deployment was interrupted")
        found = rayserve.loaded(stage.target)
        if stage.version in found["rejected"]:
            raise DeployError(
                "the new version could not be loaded",
                where=stage.name,
                got=found["rejected"][stage.version],
            )
        if stage.version not in found["loaded"]:
            time.sleep(0.02)
            continue
        have.add(found["pid"])
        # Which replica answers is chance; what it is asked for it waits for.
        until = min(until, time.monotonic() + 5.0)


def _version_at(base: str) -> str | None:
    """The version of the replica that answers at this moment, if one does."""
    url = base + VERSION_PATH
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError):
        return None


def wait_answers(base: str, version: str, replicas: int, given_up: Callable[[], bool]) -> None:
    """Wait until the front end gives requests to the new version only.

    Serve has it running a moment before HAProxy has taken the old replica off its list.
    """
    until, seen = time.monotonic() + ANSWER_TIMEOUT_S, 0
    while seen < 3 * replicas:
        if given_up():
            raise Cancelled("the deployment was interrupted")
        if time.monotonic() > until:
            raise DeployError("it runs and does not answer", where=base)
        seen = seen + 1 if _version_at(base) == version else 0
        time.sleep(0.002 if seen else 0.02)
