"""Bringing an app to its targets, and back: the steps of a rollout, each with a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from mlkit.errors import DeployError
from mlkit.serving.control.cluster import ApplicationStatus, Cluster, Target
from mlkit.serving.control.rollout import Rollout, StageTarget
from mlkit.serving.control.room import EVERY_S, NO_ROOM_S, Room

__all__ = ["Deployer", "Say"]

Say = Callable[[str], None]
"""Takes what is going on, in words."""

ROLLOUT_S = 1800.0
"""For a whole rollout: a large model may take minutes to load."""
ANSWER_S = 60.0
"""From running replicas to the front end giving requests to the new version only."""
ROLLBACK_S = 180.0
DELETE_S = 60.0
POLL_S = 0.05


class Deployer:
    """Rolls apps out, rolls them back and deletes them; holds no state of theirs.

    Args:
        cluster: what does it.
        front_end: gives the address under which the front of an app answers on this machine.
    """

    def __init__(self, cluster: Cluster, front_end: Callable[[Target], str]) -> None:
        self._cluster = cluster
        self._front_end = front_end

    async def roll_out(self, new: Rollout, before: Rollout | None, say: Say) -> None:
        """Bring up what differs: stages first, all at once; then the front, which calls them.

        Raises:
            DeployError: replicas do not start, reject the new version, find no room, or a deadline
                has passed.
        """
        had = {stage.target.name: stage.target for stage in before.all} if before else {}
        pending = [stage for stage in new.stages if had.get(stage.target.name) != stage.target]
        async with _deadline(ROLLOUT_S, "the rollout", new.front.name):
            await self._bring([stage.target for stage in pending], say)
            for stage in pending:
                await self._converged(stage)
            await self._bring([new.front.target], say)
            await self._converged(new.front)
        if self._cluster.local:
            say("waiting for its first answers")
            async with _deadline(ANSWER_S, "switching the front end over", new.front.name):
                await self._answers(new.front)

    async def roll_back(self, new: Rollout, before: Rollout | None) -> None:
        """Undo what was begun; applications that are only in the new rollout go.

        Raises:
            DeployError: it did not succeed in time.
        """
        async with _deadline(ROLLBACK_S, "the rollback", new.front.name):
            if before is not None:
                await self._bring([stage.target for stage in before.all], lambda text: None)
                for stage in before.all:
                    await self._converged(stage)
            stale = new.applications - (before.applications if before else set())
            await self._cluster.delete(sorted(stale))

    async def delete(self, applications: set[str], app: str) -> None:
        """Remove applications.

        Raises:
            DeployError: they are not gone in time.
        """
        async with _deadline(DELETE_S, "the deletion", app):
            await self._cluster.delete(sorted(applications))

    async def _bring(self, targets: Sequence[Target], say: Say) -> None:
        """Apply targets and wait until all run."""
        if not targets:
            return
        await self._cluster.apply(targets)
        stages = {target.name: target.deployment for target in targets}
        room = Room(NO_ROOM_S if self._cluster.local else math.inf)
        clock = asyncio.get_running_loop().time
        lacking, look_at, said = "", -math.inf, ""
        while True:
            statuses = await self._cluster.status(list(stages))
            waiting = [t for t in targets if statuses[t.name].state != "RUNNING"]
            _check_failed(targets, statuses)
            if not waiting:
                return
            if clock() >= look_at:
                counts = await self._cluster.counts(stages, beside=True)
                lacking = room.lacking(counts, clock())
                look_at = clock() + EVERY_S
            text = lacking or _progress(statuses[waiting[0].name])
            if len(targets) > 1:
                done = f"{len(targets) - len(waiting)} of {len(targets)}"
                text = f"{waiting[0].deployment}: {text} ({done} stages ready)"
            if text != said:
                say(text)
                said = text
            await asyncio.sleep(POLL_S)

    async def _converged(self, stage: StageTarget) -> None:
        """Wait until every replica of a stage has its version.

        Raises:
            DeployError: one of them could not load it; what it had it still serves.
        """
        while True:
            reports = await self._cluster.reports(stage.target)
            for report in reports:
                if stage.version in report.rejected:
                    raise DeployError(
                        "the new version could not be loaded",
                        where=stage.name,
                        got=report.rejected[stage.version],
                    )
            if all(stage.version in report.loaded for report in reports):
                return
            await asyncio.sleep(POLL_S)

    async def _answers(self, front: StageTarget) -> None:
        """Wait until the front end gives requests to the new version only.

        Serve has it running a moment before HAProxy has taken the old replica off its list.
        """
        base_url = self._front_end(front.target)
        replicas = front.target.options.get("num_replicas") or 1
        seen = 0
        while seen < 3 * replicas:
            version = await self._cluster.answering_version(base_url)
            seen = seen + 1 if version == front.version else 0
            await asyncio.sleep(0.002 if seen else 0.02)


@asynccontextmanager
async def _deadline(seconds: float, name: str, app: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeployError(f"{name} took longer than {seconds:g} s", where=app) from error


def _check_failed(targets: Sequence[Target], statuses: dict[str, ApplicationStatus]) -> None:
    for target in targets:
        status = statuses[target.name]
        if status.failed:
            raise DeployError(
                "its replicas do not start", where=target.deployment, got=status.message
            )


def _progress(status: ApplicationStatus) -> str:
    if status.replicas.get("RUNNING") and status.replicas.get("STARTING"):
        return "starting the new replica beside the old one"
    if status.replicas.get("STOPPING"):
        return "stopping the old replica"
    return "starting a replica and loading its resources"
