"""The session process: owns the records of its apps and executes the calls of kernels.

It is detached, so that neither the end of a kernel nor its signals reach Ray, and ends when its
owner has been gone for longer than the lease.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from mlkit.autoscale import Count, Decision
from mlkit.errors import DeployConflict, DeployError, SessionError
from mlkit.serving.control import protocol
from mlkit.serving.control.audit import Audit, described
from mlkit.serving.control.changes import changes, set_replicas
from mlkit.serving.control.cluster import ApplicationTarget, Cluster, Telemetry
from mlkit.serving.control.deployer import Deployer, Say
from mlkit.serving.control.folders import BUNDLES, LOGS
from mlkit.serving.control.haproxy import replay
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.records import AppRecord, AppSpec, AppState, AppVersion, Trial
from mlkit.serving.control.rollout import Environment, Rollout, rollout
from mlkit.serving.control.room import check_room
from mlkit.serving.control.server import listening
from mlkit.serving.control.store import Store
from mlkit.serving.control.swap import Desired, allowed, deployed, promoted, rolled_back, swapped
from mlkit.serving.control.versions import entered, failed, scaled, summary
from mlkit.serving.control.vigil import Vigil, kill, signs
from mlkit.serving.control.watch import Watch
from mlkit.serving.grants import with_grant, without_grant
from mlkit.serving.replica.pulse import PULSES

__all__ = ["Host"]

T = TypeVar("T")


class Host:
    """The apps of one session.

    Args:
        folder: the session's folder.
        settings: settings from the kernel that started it.
        cluster: the cluster to deploy to.
        telemetry: metrics and scaling decisions of the apps.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], cluster: Cluster, telemetry: Telemetry
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.owner = Owner(**settings["owner"])
        self.records: dict[str, AppRecord] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._undeleted: set[str] = set()  # Serve applications that no app uses
        self._cluster = cluster
        self._telemetry = telemetry
        self._store = Store(folder / BUNDLES)
        self._locations: dict[str, str] = {}
        self._deployer = Deployer(cluster, self._base)
        self._audit = Audit(folder)
        self._watch = Watch(self._stages, cluster.counts, self._record_scaling, cluster.keep_spares)
        self._vigil = Vigil(partial(signs, folder / PULSES, folder.name), kill)
        self._changing = asyncio.Lock()  # serializes changes
        self._stop = asyncio.Event()
        self._alive_at = time.monotonic()

    @property
    def applications(self) -> list[str]:
        """Names of its Serve applications."""
        return sorted(self._undeleted | self._applications_of_apps())

    def _applications_of_apps(self) -> set[str]:
        return set().union(*(rolled.applications for rolled in self._rollouts.values()))

    async def run(self) -> None:
        """Serve calls until the session is stopped or the lease expires."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        async with listening(self.folder, self.answer):
            (self.folder / "ready").touch()
            background = asyncio.gather(self._watch_owner(), self._watch.run(), self._vigil.run())
            await self._stop.wait()
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)

    async def _watch_owner(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.owner.alive:
                self._alive_at = time.monotonic()
            elif time.monotonic() - self._alive_at > float(self.settings["lease_s"]):
                self._stop.set()

    async def answer(self, call: protocol.Call[Any], say: Say) -> Any:
        """Execute a call; a change that is cancelled is rolled back.

        Raises:
            DeployError: the call failed.
        """
        match call:
            case protocol.DeleteApp(app=app, last_ends=last_ends):
                async with self._changing:
                    with self._audit.recording(call):
                        if last_ends and not set(self.records) - {app}:
                            self._stop.set()  # Serve is shut down with its applications
                            return []
                        await self._delete(app)
                return sorted(self.records)
            case protocol.About():
                self._check_goes_on()
                return self._info()
            case protocol.Own(pid=pid):
                self.owner, self._alive_at = Owner.of(pid), time.monotonic()
            case protocol.StopSession():
                with self._audit.recording(call):
                    self._stop.set()
            case _ if described(call) is not None:
                async with self._changing:
                    with self._audit.recording(call):
                        return await self._change(self._desired(call), say)
            case _:
                return await self._observe(call)
        return None

    async def _observe(self, call: protocol.Call[Any]) -> Any:
        """Execute a call that changes nothing."""
        match call:
            case protocol.GetHealth(app=app):
                stages = self._stages_of(app)
                statuses = await self._cluster.status(list(stages))
                return {stage: statuses[name] for name, stage in stages.items()}
            case protocol.GetPlacement(app=app):
                return await self._cluster.placement(self._stages_of(app))
            case protocol.GetMetrics(app=app, since=since, scaling=scaling):
                self._watch.request()
                return await self._telemetry.since(app, since, scaling)
            case protocol.GetTraces(app=app, slowest=slowest, id=id):
                return await self._telemetry.traces(app, slowest, id)
            case protocol.GetComparisons(app=app):
                return await self._telemetry.comparisons(app)
            case protocol.PeekInto(app=app, step=step, for_s=for_s):
                return await self._telemetry.peek(app, step, time.time() + for_s)

    def _check_goes_on(self) -> None:
        """Refuse calls that a session cannot handle while it shuts down.

        Raises:
            SessionError: it is ending.
        """
        if self._stop.is_set():
            raise SessionError("the session is ending", fix="deploy again, which starts a new one")

    def _info(self) -> protocol.SessionInfo:
        return protocol.SessionInfo(
            pid=os.getpid(),
            notebook=self.settings["notebook"],
            owner=self.owner,
            address=self.settings["address"],
            port=self.settings["port"],
            apps=self.records,
        )

    # ---- changes ----------------------------------------------------------------------------

    async def _change(self, desired: Desired, say: Say) -> AppRecord:
        """Deploy or change an app; a change that fails is rolled back."""
        self._check_goes_on()
        spec, trial = desired.spec, desired.trial
        record, before = self.records.get(spec.app), self._rollouts.get(spec.app)
        if record is None:
            root = not any(other.root for other in self.records.values())
        else:
            root = record.root
        grants = desired.grants
        if grants is None:
            grants = record.grants if record else ()
        environment = Environment(
            logs=str(self.folder / LOGS),
            gatherer=self._telemetry.name,
            route_prefix="/" if root else f"/{spec.app}",
            locations=await self._publish(spec, trial),
            grants=grants,
        )
        new = rollout(spec, environment, before, trial, check=desired.check)
        stage_changes = tuple(changes(before, new))
        if _is_settled(record) and all(change.action == "kept" for change in stage_changes):
            self.records[spec.app] = record.model_copy(update={"changes": stage_changes})
            return self.records[spec.app]
        if self._cluster.local:
            running = [rolled for name, rolled in self._rollouts.items() if name != spec.app]
            others = [stage.target for rolled in running for stage in rolled.all]
            targets = [stage.target for stage in new.all]
            check_room(spec.app, targets, others, await self._cluster.resources())
        now = AppVersion(
            version=new.front.version,
            spec=spec,
            since=time.time(),
            how=desired.how,
            changed=summary(stage_changes, first=record is None),
            deployment=desired.deployment,
        )
        await self._replace(now, root, new, record, before, say)
        now = now.model_copy(update={"since": time.time()})
        serving = self.records[spec.app].moved(
            AppState.SERVING,
            spec=spec,
            generation=record.generation + 1 if record else 1,
            since=now.since,
            changes=stage_changes,
            version=now.version,
            trial=trial and trial.model_copy(update={"version": new.trial_version}),
            versions=_versions(record, now, desired),
            grants=grants,
        )
        self.records[spec.app], self._rollouts[spec.app] = serving, new
        self._replay()
        if before is not None:
            self._undeleted |= before.applications
        await _complete(self._tidy(spec.app))
        await self._collect()
        return serving

    async def _replace(
        self,
        version: AppVersion,
        root: bool,
        new: Rollout,
        record: AppRecord | None,
        before: Rollout | None,
        say: Say,
    ) -> None:
        """Roll out; roll back if that fails or is cancelled.

        Raises:
            DeployError: it failed; the error says what serves now.
        """
        name, base = new.front.name, self._base(new.front.target)
        assert version.spec is not None
        if record is None:
            self.records[name] = AppRecord(
                spec=version.spec,
                state=AppState.STARTING,
                generation=0,
                root=root,
                url=f"{base}/{name}" if root else base,
                base=base,
                since=time.time(),
            )
        else:
            self.records[name] = record.moved(AppState.UPDATING)
        self._rollouts[name] = new
        self._replay(version.spec)
        try:
            await self._record_set(name, before, new, "set manually")
            await self._deployer.roll_out(new, before if _is_settled(record) else None, say)
        except BaseException as error:
            if not self._stop.is_set():
                say("rolling back")
                await _complete(self._undo(new, record, before))
                self._tell(name, version, error)
            raise

    def _tell(self, name: str, version: AppVersion, error: BaseException) -> None:
        """Add the serving version to an error, and the failed one to the versions."""
        record = self.records.get(name)
        if record is None or not isinstance(error, DeployError):
            return
        cause = error.got or error.what
        if record.state is AppState.SERVING:
            error.what += "; the previous version keeps serving"
        else:
            error.what += "; the previous version could not be restored"
        failure = version.model_copy(update={"spec": None, "since": time.time(), "error": cause})
        self.records[name] = record.model_copy(
            update={"versions": failed(record.versions, failure)}
        )

    async def _undo(self, new: Rollout, record: AppRecord | None, before: Rollout | None) -> None:
        name = new.front.name
        if record is not None:
            self.records[name] = self.records[name].moved(AppState.ROLLING_BACK)
        stale = new.applications - (before.applications if before else set())
        self._undeleted |= stale
        with suppress(Exception):  # the first error is reported; the record has the state
            await self._deployer.roll_back(new, before)
            self._undeleted -= stale
            if record is not None and before is not None:
                self.records[name] = self.records[name].moved(AppState.SERVING)
        if record is None or before is None:
            del self.records[name], self._rollouts[name]
        else:
            self._rollouts[name] = before
            await self._record_set(name, new, before, "rolled back: the change failed")
        self._replay()

    def _replay(self, coming: AppSpec | None = None) -> None:
        """Update which apps' requests HAProxy may retry, from its next reload on.

        Args:
            coming: specification of a version that is being rolled out.
        """
        apps = {name for name, record in self.records.items() if record.spec.idempotent}
        if coming is not None and not coming.idempotent:
            apps.discard(coming.app)
        replay(self.folder, apps)

    def _desired(self, call: protocol.Call[Any]) -> Desired:
        """The target state after a change of the current one.

        Raises:
            DeployError: there is no such app, or it cannot be changed in this way.
            DeployConflict: it was changed in the meantime.
        """
        match call:
            case protocol.DeployApp(spec=spec):
                return deployed(self.records.get(spec.app), spec)
            case protocol.ScaleApp(app=app, generation=generation):
                return self._scaled(self._record(app, generation), call)
            case protocol.SwapResources(app=app, generation=generation):
                record = self._record(app, generation)
                return swapped(record, call.replacements, call.canary, call.shadow, call.how)
            case protocol.PromoteTrial(app=app, version=version):
                return promoted(self._record(app), version)
            case protocol.RollBack(app=app, version=version, to=to):
                return rolled_back(self._record(app), version, to)
            case protocol.CreateToken(app=app, grant=grant):
                record = self._record(app)
                return allowed(record, with_grant(record.grants, grant, app))
            case protocol.RevokeToken(app=app, name=name):
                record = self._record(app)
                return allowed(record, without_grant(record.grants, name, app))
        raise DeployError(f"{type(call).__name__} changes no app")

    def _scaled(self, record: AppRecord, call: protocol.ScaleApp) -> Desired:
        stages = tuple(
            stage.model_copy(update={"settings": call.settings.get(stage.name, stage.settings)})
            for stage in record.spec.stages
        )
        changed = {"stages": stages, "limits": call.limits, "batch_sizes": call.batch_sizes}
        spec = record.spec.model_copy(update=changed)
        return Desired(spec, "scaled", record.deployment, record.trial)

    async def _delete(self, app: str) -> None:
        record = self.records.get(app)
        if record is None:
            await _complete(self._delete_undeleted(app))
            return
        self.records[app] = record.moved(AppState.STOPPED)
        self._undeleted |= self._rollouts.pop(app).applications
        try:
            await _complete(self._delete_undeleted(app))
        finally:
            del self.records[app]
            self._replay()
        for path in (self.folder / LOGS).glob(f"{app}.jobs.sqlite*"):
            path.unlink(missing_ok=True)
        await self._telemetry.forget(app)
        await self._collect()

    async def _tidy(self, app: str) -> None:
        """Delete what a change of an app no longer uses; a failure does not fail the change."""
        with suppress(Exception):
            await self._delete_undeleted(app)

    async def _delete_undeleted(self, app: str) -> None:
        """Delete Serve applications that no app uses; those that remain are retried later.

        Raises:
            DeployError: the deadline has passed.
        """
        self._undeleted -= self._applications_of_apps()
        if self._undeleted:
            await self._deployer.delete(self._undeleted, app)
            self._undeleted.clear()

    def _record(self, app: str, generation: int | None = None) -> AppRecord:
        """Return the record of an app, if it is of a generation.

        Raises:
            DeployError: there is no such app.
            DeployConflict: it is of another generation.
        """
        record = self.records.get(app)
        if record is None:
            raise DeployError("there is no such app", where=f"app {app!r}", fix="deploy it again")
        if generation not in (None, record.generation):
            raise DeployConflict(
                "the app was changed in the meantime",
                where=f"app {app!r}",
                expected=f"generation {generation}",
                got=f"generation {record.generation}",
                fix="try again",
            )
        return record

    async def _publish(self, spec: AppSpec, trial: Trial | None) -> dict[str, str]:
        """Publish what replicas load, and return the locations of a specification's objects."""
        replacements = [
            *spec.replacements.values(),
            *(trial.replacements if trial else {}).values(),
        ]
        for key in (*(stage.bundle for stage in spec.stages), *(r.object for r in replacements)):
            if key not in self._locations:
                self._locations[key] = await self._cluster.publish(self._store.path(key))
        policies = {stage.settings.policy for stage in spec.stages} - {""}
        return self._locations | {key: str(self._store.path(key)) for key in policies}

    async def _collect(self) -> None:
        """Delete unreferenced objects."""
        # A stage whose code did not change still uses the bundle of an earlier rollout.
        running: set[str] = set().union(*(rolled.locations for rolled in self._rollouts.values()))
        referenced = {key for key, location in self._locations.items() if location in running}
        referenced |= set().union(*(record.objects for record in self.records.values()))
        deleted = await asyncio.to_thread(self._store.collect, referenced)
        await self._cluster.retract(
            [self._locations.pop(key) for key in deleted if key in self._locations]
        )

    def _base(self, front: ApplicationTarget) -> str:
        base = f"http://{self.settings['reached_at']}:{self.settings['port']}"
        return base if front.route_prefix == "/" else f"{base}/{front.name}"

    # ---- observation ------------------------------------------------------------------------

    def _stages_of(self, app: str) -> dict[str, str]:
        """Return an app's stages by the names of their applications."""
        rolled = self._rollouts.get(app)
        return {stage.target.name: stage.name for stage in rolled.all} if rolled else {}

    def _stages(self) -> dict[str, tuple[bool, dict[str, str]]]:
        """Return for each app whether it is autoscaled, and its stages by application."""
        return {
            app: (
                any("autoscaling_config" in stage.target.options for stage in rolled.all),
                self._stages_of(app),
            )
            for app, rolled in self._rollouts.items()
        }

    async def _record_scaling(
        self, app: str, decisions: list[Decision], counts: list[Count]
    ) -> None:
        await self._telemetry.record_scaling(
            app,
            [decision.to_dict() for decision in decisions],
            [count.to_dict() for count in counts],
        )

    async def _record_set(self, app: str, before: Rollout | None, new: Rollout, why: str) -> None:
        """Record manual changes of replica counts in the scaling log."""
        if before is None:
            return
        now = time.time()
        decisions = [
            Decision(now, stage, "scaled", old, count, why)
            for stage, fixed, count in set_replicas(before, new)
            if (old := self._watch.wanted(app, stage) if fixed is None else fixed) != count
        ]
        with suppress(Exception):  # the change itself matters more
            if decisions:
                await self._record_scaling(app, decisions, [])


def _is_settled(record: AppRecord | None) -> TypeGuard[AppRecord]:
    """Whether Serve runs what a record says; after a rollback that failed, that is unknown."""
    return record is not None and record.state is AppState.SERVING


def _versions(
    record: AppRecord | None, now: AppVersion, desired: Desired
) -> tuple[AppVersion, ...]:
    """The versions of an app after a change."""
    if record is None:
        return (now,)
    if desired.how == "scaled":
        return scaled(record.versions, record.version, now)
    return entered(record.versions, record.version, now, desired.back_to)


async def _complete(work: Awaitable[T]) -> T:
    """Await something that must not be interrupted, and defer a cancellation until then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()
