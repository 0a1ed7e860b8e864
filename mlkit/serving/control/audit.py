"""Audit log of a session: who changed its apps, when, and with what outcome.

It holds names, shares and numbers of replicas, and no values: neither tokens nor their digests,
configuration, environment variables or the text of errors, which may have secrets in them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlkit.serving.control import protocol

__all__ = ["AUDIT", "Audit", "described", "read_audit"]

AUDIT = "audit.jsonl"
"""Name of the log in a session's folder; the previous one has the suffix ``.1``."""

MAX_BYTES = 2**20
"""Length at which a new file begins; two are kept."""

_MAX_TEXT = 200


def described(call: protocol.Call[Any]) -> tuple[str, str, str] | None:
    """Return app, action and details of a call that changes something; None for others."""
    match call:
        case protocol.DeployApp(spec=spec):
            stages = ", ".join(stage.name for stage in spec.stages)
            return spec.app, "deploy", f"stages {stages}"
        case protocol.ScaleApp(app=app, settings=settings, batch_sizes=sizes):
            counts = [f"{name} {_count(stage)}" for name, stage in settings.items()]
            batches = [f"max_batch_size of {name} {size}" for name, size in sizes.items()]
            return app, "scale", ", ".join([*counts, *batches])
        case protocol.SwapResources(app=app, how=how, replacements=new):
            names = sorted({key.partition(".")[2] for key in new})
            shares = (("canary", call.canary), ("shadow", call.shadow))
            on_trial = [f"{name} {share:.3g}" for name, share in shares if share]
            action = "update" if how == "updated" else "swap"
            return app, action, ", ".join([*names, *on_trial])
        case protocol.PromoteTrial(app=app, version=version):
            return app, "promote", version
        case protocol.RollBack(app=app, to=to):
            return app, "roll back", f"to {to}" if to else ""
        case protocol.CreateToken(app=app, grant=grant):
            rate = "" if grant.rate is None else f", {grant.rate:g}/s"
            return app, "create token", f"{grant.name}: {', '.join(grant.scopes)}{rate}"
        case protocol.RevokeToken(app=app, name=name):
            return app, "revoke token", name
        case protocol.DeleteApp(app=app):
            return app, "shut down", ""
        case protocol.StopSession():
            return "", "stop session", ""
    return None


def _count(settings: Any) -> str:
    if settings.autoscaling_config is None:
        return f"{settings.num_replicas}"
    bounds = settings.autoscaling_config
    return f"{bounds.get('min_replicas', '')} to {bounds.get('max_replicas', '')}"


class Audit:
    """Writes the audit log of a session; a log that cannot be written stops no change.

    Args:
        folder: the session's folder.
        now: clock in seconds since the epoch.
        max_bytes: length at which a new file begins.
    """

    def __init__(
        self, folder: Path, now: Callable[[], float] = time.time, max_bytes: int = MAX_BYTES
    ) -> None:
        self._path = folder / AUDIT
        self._now = now
        self._max_bytes = max_bytes

    @contextmanager
    def recording(self, call: protocol.Call[Any]) -> Iterator[None]:
        """Record a call with its outcome, which is that of the block."""
        outcome = "done"
        try:
            yield
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except BaseException as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        finally:
            self._write(call, outcome)

    def _write(self, call: protocol.Call[Any], outcome: str) -> None:
        what = described(call)
        if what is None:
            return
        app, action, detail = what
        entry = {"time": self._now(), "app": app, "action": action, "by": call.by}
        entry |= {"detail": detail, "outcome": outcome}
        texts = {n: v[:_MAX_TEXT] if isinstance(v, str) else v for n, v in entry.items()}
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > self._max_bytes:
                self._path.replace(_before(self._path))
            self._path.touch(0o600)
            with self._path.open("a") as file:
                file.write(json.dumps(texts) + "\n")  # escapes line breaks and other controls


def read_audit(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a session's audit log, oldest first; an incomplete line is left out."""
    entries: list[dict[str, Any]] = []
    for path in (_before(folder / AUDIT), folder / AUDIT):
        with suppress(OSError):
            for line in path.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    entries.append(json.loads(line))
    return entries


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
