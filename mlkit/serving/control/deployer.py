"""Rolling update of an app, rollback and deletion, each with a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from mlkit.errors import DeployError
from mlkit.serving.control.cause import advice, cause_in
from mlkit.serving.control.cluster import ApplicationStatus, ApplicationTarget, Cluster
from mlkit.serving.control.rollout import Rollout, StageTarget
from mlkit.serving.control.room import EVERY_S, NO_ROOM_S, Room

__all__ = ["Deployer", "Say"]

Say = Callable[[str], None]
"""Receives progress messages."""

ROLLOUT_S = 1800.0
"""Deadline of a rollout: a large model may take minutes to load."""
ANSWER_S = 60.0
"""Deadline for the front end to route all requests to the new version."""
ROLLBACK_S = 180.0
DELETE_S = 60.0
POLL_S = 0.05


class Deployer:
    """Rolls out, rolls back and deletes apps; stateless.

    Args:
        cluster: the cluster to deploy to.
        front_end: returns the local base URL of an app's front.
    """

    def __init__(self, cluster: Cluster, front_end: Callable[[ApplicationTarget], str]) -> None:
        self._cluster = cluster
        self._front_end = front_end

    async def roll_out(self, new: Rollout, before: Rollout | None, say: Say) -> None:
        """Update the stages that differ, all at once, and then the front, which calls them.

        Raises:
            DeployError: replicas fail to start or to load the new version, lack resources, or a
                deadline has passed.
        """
        old = {stage.target.name: stage.target for stage in before.all} if before else {}
        pending = [stage for stage in new.stages if old.get(stage.target.name) != stage.target]
        async with _deadline(ROLLOUT_S, "the rollout", new.front.name):
            await self._bring([stage.target for stage in pending], say)
            for stage in pending:
                await self._converged(stage)
            await self._bring([new.front.target], say)
            await self._converged(new.front)
        if self._cluster.local:
            say("waiting for the first response of the new version")
            async with _deadline(ANSWER_S, "switching the front end over", new.front.name):
                await self._answers(new.front)

    async def roll_back(self, new: Rollout, before: Rollout | None) -> None:
        """Restore the previous rollout and delete applications that only the new one has.

        Raises:
            DeployError: the deadline has passed.
        """
        async with _deadline(ROLLBACK_S, "the rollback", new.front.name):
            if before is not None:
                await self._bring([stage.target for stage in before.all], lambda text: None)
                for stage in before.all:
                    await self._converged(stage)
            stale = new.applications - (before.applications if before else set())
            await self._cluster.delete(sorted(stale))

    async def delete(self, applications: set[str], app: str) -> None:
        """Delete applications.

        Raises:
            DeployError: the deadline has passed.
        """
        async with _deadline(DELETE_S, "the deletion", app):
            await self._cluster.delete(sorted(applications))

    async def _bring(self, targets: Sequence[ApplicationTarget], say: Say) -> None:
        """Apply targets and wait until all run."""
        if not targets:
            return
        await self._cluster.apply(targets)
        stages = {target.name: target.deployment for target in targets}
        room = Room(NO_ROOM_S if self._cluster.local else math.inf)
        clock = asyncio.get_running_loop().time
        lacking, next_count_at, last_text = "", -math.inf, ""
        while True:
            statuses = await self._cluster.status(list(stages))
            waiting = [t for t in targets if statuses[t.name].state != "RUNNING"]
            _check_failed(targets, statuses)
            if not waiting:
                return
            if clock() >= next_count_at:
                counts = await self._cluster.counts(stages, beside=True)
                lacking = room.lacking(counts, clock())
                next_count_at = clock() + EVERY_S
            text = lacking or _progress(statuses[waiting[0].name])
            if len(targets) > 1:
                done = f"{len(targets) - len(waiting)} of {len(targets)}"
                text = f"{waiting[0].deployment}: {text} ({done} stages ready)"
            if text != last_text:
                say(text)
                last_text = text
            await asyncio.sleep(POLL_S)

    async def _converged(self, stage: StageTarget) -> None:
        """Wait until every replica of a stage has loaded its versions.

        Raises:
            DeployError: a replica cannot load them, or dies of it.
        """
        clock = asyncio.get_running_loop().time
        next_status_at = clock() + EVERY_S
        while True:
            reports = await self._cluster.reports(stage.target)
            for report in reports:
                for state in stage.states:
                    if state in report.rejected:
                        raise _failed(
                            "the new version could not be loaded",
                            stage.name,
                            cause_in(report.rejected[state]),
                        )
            if all(state in report.loaded for report in reports for state in stage.states):
                return
            if clock() >= next_status_at:
                status = (await self._cluster.status([stage.target.name]))[stage.target.name]
                # A replica that was killed while loading is restarted, and killed again.
                if status.failed or status.state == "UNHEALTHY":
                    raise _failed("its replicas died", stage.name, status.message)
                next_status_at = clock() + EVERY_S
            await asyncio.sleep(POLL_S)

    async def _answers(self, front: StageTarget) -> None:
        """Wait until requests reach the new version only.

        Serve reports RUNNING shortly before HAProxy stops routing to the old replica.
        """
        base_url = self._front_end(front.target)
        replicas = front.target.options.get("num_replicas") or 1
        in_a_row = 0
        while in_a_row < 3 * replicas:
            version = await self._cluster.answering_version(base_url)
            in_a_row = in_a_row + 1 if version == front.version else 0
            await asyncio.sleep(0.002 if in_a_row else 0.02)


@asynccontextmanager
async def _deadline(seconds: float, name: str, app: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeployError(f"{name} took longer than {seconds:g} s", where=app) from error


def _check_failed(
    targets: Sequence[ApplicationTarget], statuses: dict[str, ApplicationStatus]
) -> None:
    for target in targets:
        status = statuses[target.name]
        if status.failed:
            raise _failed("the replicas do not start", target.deployment, status.message)


def _failed(message: str, where: str, cause: str) -> DeployError:
    return DeployError(message, where=where, got=cause, fix=advice(cause))


def _progress(status: ApplicationStatus) -> str:
    if status.replicas.get("RUNNING") and status.replicas.get("STARTING"):
        return "rolling update: starting the new replica"
    if status.replicas.get("STOPPING"):
        return "rolling update: draining the old replica"
    return "starting a replica and loading its resources"
