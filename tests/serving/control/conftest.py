"""A cluster that is made up, a clock that jumps, and a session's host on both."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mlkit.serving.bundle import Manifest, Origin
from mlkit.serving.control.cause import cause_in
from mlkit.serving.control.cluster import (
    ApplicationStatus,
    ApplicationTarget,
    ReplicaCounts,
    ReplicaReport,
)
from mlkit.serving.control.folders import BUNDLES, LOGS
from mlkit.serving.control.host import Host
from mlkit.serving.control.protocol import (
    DeleteApp,
    DeployApp,
    GetHealth,
    PromoteTrial,
    RollBack,
    ScaleApp,
    SwapResources,
)
from mlkit.serving.control.records import AppSpec, Replacement, StageSettings, StageSpec
from mlkit.serving.control.store import Store
from mlkit.serving.limits import Limits

START_S = 2.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is what its callbacks wait for: an hour passes at once."""

    def __init__(self) -> None:
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout=None):
                loop.now += timeout or 0.0
                return super().select(0)

        self.now = 1_000.0
        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def run(main: Awaitable[Any]) -> Any:
    """Runs a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class FakeCluster:
    """Stands for Ray Serve: replicas start after `START_S`, unless told otherwise.

    Attributes:
        applications: what there is, by name.
        broken: versions and deployments that do not start or load.
        rejecting: replicas by number that reject broken versions; None for all.
        words: what Serve, or a replica, says about those.
        deadly: deployments that die of what they load, once they run.
        hangs: names of methods that never return.
        calls: names of the methods that were called.
        interrupt: called at each await, with how many there were.
    """

    local = True

    def __init__(self) -> None:
        self.applications: dict[str, tuple[ApplicationTarget, float, set[str]]] = {}
        self.broken: set[str] = set()
        self.rejecting: set[int] | None = None
        self.words = "ImportError: no"
        self.deadly: set[str] = set()
        self.hangs: set[str] = set()
        self.crowded: set[str] = set()
        self.total = {"CPU": 16.0}
        self.published: set[str] = set()
        self.calls: list[str] = []
        self.interrupt: Callable[[int], None] = lambda count: None
        self._awaits = itertools.count()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _begin(self, method: str) -> None:
        self.calls.append(method)
        if method in self.hangs:
            await asyncio.sleep(1e9)
        self.interrupt(next(self._awaits))
        await asyncio.sleep(0)

    async def publish(self, path) -> str:
        await self._begin("publish")
        self.published.add(str(path))
        return str(path)

    async def retract(self, locations) -> None:
        await self._begin("retract")
        self.published -= set(locations)

    async def apply(self, targets) -> None:
        await self._begin("apply")
        for target in targets:
            known = self.applications.get(target.name)
            loaded, ready_at = (known[2], known[1]) if known else (set(), self.now + START_S)
            if known and known[0].version != target.version:
                loaded, ready_at = set(), self.now + START_S
            self.applications[target.name] = (target, ready_at, loaded)

    async def status(self, applications) -> dict[str, ApplicationStatus]:
        await self._begin("status")
        return {name: self._status(name) for name in applications}

    def _status(self, name: str) -> ApplicationStatus:
        if name not in self.applications:
            return ApplicationStatus("NOT_RUNNING")
        target, ready_at, _ = self.applications[name]
        if target.deployment in self.broken:
            return ApplicationStatus("DEPLOY_FAILED", cause_in(self.words), {}, failed=True)
        if target.deployment in self.crowded or self.now < ready_at:
            return ApplicationStatus("DEPLOYING", "", {"STARTING": 1})
        if target.deployment in self.deadly and self.now > ready_at + 2 * START_S:
            return ApplicationStatus("UNHEALTHY", cause_in(self.words), {"STARTING": 1})
        return ApplicationStatus("RUNNING", "", {"RUNNING": self._replicas(target)})

    def _replicas(self, target: ApplicationTarget) -> int:
        return target.options.get("num_replicas") or 1

    async def reports(self, target) -> list[ReplicaReport]:
        await self._begin("reports")
        if target.name not in self.applications:
            return []
        target, _, loaded = self.applications[target.name]
        config = target.user_config
        wanted = config.get("versions") or {config["state"]: None, config["granted"]: None}
        broken = {state for state in wanted if any(name in state for name in self.broken)}
        rejected = dict.fromkeys(broken, self.words)
        if target.deployment not in self.deadly:
            loaded |= set(wanted) - set(rejected)
        count = self._replicas(target)
        everything = tuple(loaded | broken)
        return [
            ReplicaReport(pid, tuple(loaded), rejected)
            if self.rejecting is None or pid in self.rejecting
            else ReplicaReport(pid, everything, {})
            for pid in range(count)
        ]

    async def answering_version(self, base_url) -> str | None:
        await self._begin("answering_version")
        fronts = [t for t, _, _ in self.applications.values() if t.kind == "front"]
        by_url = {f"/{t.name}" if t.route_prefix != "/" else "": t for t in fronts}
        front = by_url.get("/" + base_url.split("/", 3)[3] if base_url.count("/") > 2 else "")
        return front.user_config["version"] if front else None

    async def counts(self, applications, *, beside=False) -> dict[str, ReplicaCounts]:
        await self._begin("counts")
        return {
            stage: ReplicaCounts(1, 0, 0, {"GPU": 1.0}, {})
            if stage in self.crowded
            else ReplicaCounts(1, 1, 1)
            for stage in applications.values()
        }

    async def resources(self) -> dict[str, float]:
        await self._begin("resources")
        return self.total

    async def placement(self, applications) -> dict[str, Any]:
        return {"replicas": [], "nodes": [], "taken": {}}

    async def delete(self, applications) -> None:
        await self._begin("delete")
        for name in applications:
            self.applications.pop(name, None)

    async def keep_spares(self) -> None:
        return None


class FakeTelemetry:
    """Remembers the scaling decisions it was told."""

    name = "telemetry"

    def __init__(self) -> None:
        self.decisions: list[dict[str, Any]] = []
        self.forgotten: list[str] = []

    async def record_scaling(self, app, decisions, counts) -> None:
        self.decisions += decisions

    async def forget(self, app) -> None:
        self.forgotten.append(app)


class Session:
    """A host on a fake cluster, with calls as a kernel makes them."""

    def __init__(self, folder) -> None:
        for part in (BUNDLES, LOGS):
            (folder / part).mkdir(exist_ok=True)
        settings = {
            "owner": {"pid": 1, "started": 0.0},
            "lease_s": 60.0,
            "notebook": "shop.ipynb",
            "address": "local",
            "port": 8123,
            "reached_at": "127.0.0.1",
        }
        self.cluster, self.telemetry = FakeCluster(), FakeTelemetry()
        self.store = Store(folder / BUNDLES)
        self.host = Host(folder, settings, self.cluster, self.telemetry)
        self.progress: list[str] = []

    def spec(self, version="v1", *, stages=("models",), **fields) -> AppSpec:
        """An app ``shop`` whose code is of a version, with stages beside its front."""
        settings = fields.pop("settings", StageSettings())
        return AppSpec(
            app=fields.pop("app", "shop"),
            stages=tuple(
                StageSpec(
                    name=name,
                    digest=f"{name}-{version}",
                    bundle=self.store.put(f"{name}-{version}".encode()),
                    manifest=Manifest(
                        {f"step_of_{name}": version},
                        {f"{name}.step_of_{name}.model": f"{name}-model-{version}"},
                        {f"{name}.step_of_{name}.threshold": ("digest of 0.5", "0.5")},
                    ),
                    ray_actor_options={"num_cpus": 1},
                    options={},
                    settings=settings,
                )
                for name in ("shop", *stages)
            ),
            plan=self.store.put(b"plan of " + version.encode()),
            origin=fields.pop("origin", Origin("/home", ())),
            limits=Limits(),
            token=fields.pop("token", "secret"),
            exact_key="secret-key",
            **fields,
        )

    async def deploy(self, *version, **fields):
        return await self.call(DeployApp(spec=self.spec(*version, **fields)))

    def limits(self, limits) -> ScaleApp:
        """The call that changes the limits of requests."""
        record = self.host.records["shop"]
        return ScaleApp(
            app="shop",
            generation=record.generation,
            settings={},
            limits=limits,
            batch_sizes={},
        )

    async def scale(self, generation, *, app="shop", **settings):
        record = self.host.records.get(app)
        return await self.call(
            ScaleApp(
                app=app,
                generation=generation,
                settings={name: StageSettings(num_replicas=n) for name, n in settings.items()},
                limits=record.spec.limits if record else Limits(),
                batch_sizes={},
            )
        )

    async def swap(self, model, *, stage="models", generation=None, **shares):
        """Swap the model of a stage's step."""
        key = f"{stage}.step_of_{stage}.model"
        new = Replacement(digest=model, object=self.store.put(f"model {model}".encode()))
        record = self.host.records.get("shop")
        return await self.call(
            SwapResources(
                app="shop",
                generation=generation or (record.generation if record else 1),
                replacements={key: new},
                canary=shares.get("canary", 0.0),
                shadow=shares.get("shadow", 0.0),
            )
        )

    async def promote(self, version=None):
        trial = self.host.records["shop"].trial
        version = version or (trial.version if trial else "")
        return await self.call(PromoteTrial(app="shop", version=version))

    async def update(self, value, *, stage="models"):
        """Change the threshold of a stage's step, which is 0.5 as deployed."""
        key = f"{stage}.step_of_{stage}.threshold"
        new = Replacement(digest=f"digest of {value}", object=self.store.put(b"0"), text=value)
        return await self.call(
            SwapResources(
                app="shop",
                generation=self.host.records["shop"].generation,
                replacements={key: new},
                canary=0.0,
                shadow=0.0,
                how="updated",
            )
        )

    async def roll_back(self, version=None, to=""):
        record = self.host.records["shop"]
        version = version or (record.trial.version if record.trial else record.version)
        return await self.call(RollBack(app="shop", version=version, to=to))

    async def delete(self, app="shop", last_ends=False):
        return await self.call(DeleteApp(app=app, last_ends=last_ends))

    async def health(self, app="shop"):
        return await self.call(GetHealth(app=app))

    async def call(self, call):
        return await self.host.answer(call, self.progress.append)

    @property
    def state(self):
        return self.host.records["shop"].state

    @property
    def serving(self) -> dict[str, Any]:
        """What Serve has, as far as a user can tell: versions and replicas."""
        return {
            target.deployment: (
                target.user_config.get("version") or sorted(target.user_config["versions"])[-1],
                target.options.get("num_replicas"),
            )
            for target, _, _ in self.cluster.applications.values()
        }


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(tmp_path)


@pytest.fixture
def restarted(tmp_path) -> Callable[[], Session]:
    """Returns a function: a new host in the folder of the one before."""
    return lambda: Session(tmp_path)
