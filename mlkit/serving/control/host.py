"""The session process: starts Ray and Serve from its main thread, and does what kernels ask.

It is started detached, so that neither a kernel's end nor its signals reach Ray, and it ends by
itself when its owner is gone for longer than the lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlkit.autoscale.decide import Decision
from mlkit.errors import DeployError, MlkitError
from mlkit.serving.control import folders, wire
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.rollout import Change, Rollout, changes, rollout, set_replicas
from mlkit.serving.control.room import NO_ROOM_S
from mlkit.serving.control.watch import Watch
from mlkit.serving.port import depot, details, gathering, rayserve
from mlkit.serving.port.spares import Spares
from mlkit.serving.port.waiting import wait_answers, wait_loaded

__all__ = ["Host"]

QUICK = ("about", "status", "placement", "stop", "metrics", "traces", "peek")
"""Calls that change nothing."""


class Host:
    """Applications of one session, and what kernels may ask of it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.owner = Owner(**settings["owner"])
        self.lease_s = float(settings["lease_s"])
        self.apps: dict[str, dict[str, Any]] = {}
        self.gatherer = f"mlkit-metrics-{folder.name}"
        self._gatherer = gathering.start_gatherer(self.gatherer)  # it lives as long as this
        self._rollouts: dict[str, Rollout] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        local = settings["address"] == "local"
        keep = Spares().keep if local else lambda: None
        self._watch = Watch(self._stages, details.counts, self._put_down, keep)
        self._watch.start()
        # What changes something is done one after the other; what only asks need not wait for it.
        self._busy = ThreadPoolExecutor(1, thread_name_prefix="mlkit-host")
        self._quick = ThreadPoolExecutor(2, thread_name_prefix="mlkit-host-ask")
        self._stop = asyncio.Event()
        self._alive_at = time.monotonic()

    @property
    def applications(self) -> list[str]:
        """Names of all that it has on Serve."""
        return sorted(name for rolled in self._rollouts.values() for name in _applications(rolled))

    def _stages(self) -> dict[str, tuple[bool, dict[str, str]]]:
        """Of each app, whether it scales by itself, and its stage of each application."""
        return {
            app: (
                any("autoscaling_config" in s.target.options for s in rolled.all),
                {stage.target.name: stage.name for stage in rolled.all},
            )
            for app, rolled in list(self._rollouts.items())
        }

    def _put_down(self, app: str, decisions: Any, counts: Any) -> None:
        gathering.scaled(
            self.gatherer,
            app,
            decisions=[one.to_dict() for one in decisions],
            counts=[one.to_dict() for one in counts],
        )

    def _put_down_set(self, app: str, before: Rollout, new: Rollout, why: str) -> None:
        """Put down the replicas that a person asked for, beside what policies decided."""
        now = time.time()
        told = [
            Decision(now, stage, "scaled", was, count, why)
            for stage, known, count in set_replicas(before, new)
            if (was := self._watch.wanted(app, stage) if known is None else known) != count
        ]
        with suppress(Exception):  # the change itself is what counts
            if told:
                self._put_down(app, told, ())

    async def run(self) -> None:
        """Serve calls until told to stop, or until the lease runs out."""
        server = await wire.serve(self.folder, self._answer)
        loop = self._loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        (self.folder / "ready").touch()
        lease = asyncio.create_task(self._watch_owner())
        await self._stop.wait()
        lease.cancel()
        self._watch.stop()
        server.close()
        # What is half done would start a Ray of its own when it finds none.
        await asyncio.to_thread(self._busy.shutdown, cancel_futures=True)

    async def _watch_owner(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self.owner.alive:
                self._alive_at = time.monotonic()
            elif time.monotonic() - self._alive_at > self.lease_s:
                self._stop.set()

    async def _answer(self, message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Answer one call: progress as it comes, then the result or the error."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        given_up = threading.Event()

        def say(text: str) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, {"progress": text})

        def is_given_up() -> bool:
            return given_up.is_set() or self._stop.is_set()

        name = message.pop("call")
        method = getattr(self, f"do_{name}")
        pool = self._quick if name in QUICK else self._busy
        work = loop.run_in_executor(
            pool, _answered, lambda: method(say=say, given_up=is_given_up, **message)
        )
        work.add_done_callback(lambda done: queue.put_nowait(done.result()))
        try:
            while True:
                reply = await queue.get()
                yield reply
                if "progress" not in reply:
                    return
        finally:
            given_up.set()

    # ---- calls ------------------------------------------------------------------------------

    def do_about(self, say: Any, given_up: Any) -> dict[str, Any]:
        """What this session is and has."""
        return {
            "pid": os.getpid(),
            "notebook": self.settings["notebook"],
            "owner": dataclasses.asdict(self.owner),
            "address": self.settings["address"],
            "port": self.settings["port"],
            "apps": self.apps,
        }

    def do_own(self, say: Any, given_up: Any, pid: int) -> None:
        """Live for another process from now on."""
        self.owner = Owner.of(pid)
        self._alive_at = time.monotonic()

    def do_deploy(
        self, say: Callable[[str], None], given_up: Callable[[], bool], **spec: Any
    ) -> dict[str, Any]:
        """Bring an app to a new target; what was there before stays if that does not succeed."""
        name = spec["app"]
        known, before = self.apps.get(name), self._rollouts.get(name)
        if self.settings["address"] != "local":
            for stage in spec["stages"]:
                if not stage["bundle"].startswith("depot:"):
                    stage["bundle"] = depot.keep(stage["bundle"])
        # What was rebuilt by fresh=True stays as it is when nothing changes after that.
        spec["fresh"] = spec["fresh"] or (known["fresh"] if known else "")
        at_root = known["root"] if known else not any(a["root"] for a in self.apps.values())
        prefix = "/" if at_root else f"/{name}"
        spec["gatherer"] = self.gatherer if spec.get("observe", True) else ""
        spec["watcher"] = self.gatherer  # of the replicas, whether requests are counted or not
        new = rollout(spec, str(self.folder / "logs"), prefix, before)
        done = changes(before, new)
        about = self._describe(new, spec, done)
        if before is not None and all(change.action == "kept" for change in done):
            self.apps[name]["changes"] = about["changes"]
            return self.apps[name]
        if before is not None:
            self._put_down_set(name, before, new, "set by hand")
        try:
            self._roll_out(new, before, say, given_up)
        except BaseException:
            if not self._stop.is_set():
                say("it failed: back to what was there")
                self._go_back(new, before)
                if before is not None:
                    self._put_down_set(name, new, before, "set back: the change failed")
            raise
        self._rollouts[name] = new
        self._specs[name] = spec
        self.apps[name] = about
        if before is not None:
            gone = _applications(before) - _applications(new)
            rayserve.delete(sorted(gone))
        return about

    def do_scale(
        self,
        say: Callable[[str], None],
        given_up: Callable[[], bool],
        app: str,
        plan: str,
        options: dict[str, dict[str, Any]],
        limits: dict[str, Any],
        sizes: dict[str, int],
    ) -> dict[str, Any]:
        """Change how an app runs and nothing of what it runs.

        ``plan`` is the path of the plan from now on, ``options`` are Serve's by stage, ``sizes``
        those of batches by step.
        """
        if app not in self._specs:
            raise DeployError("there is no such app", where=f"app {app!r}", fix="deploy it again")
        spec = {**self._specs[app], "plan": plan, "limits": limits, "sizes": sizes}
        spec["stages"] = [{**one, "options": options[one["name"]]} for one in spec["stages"]]
        return self.do_deploy(say, given_up, **spec)

    def _roll_out(
        self,
        new: Rollout,
        before: Rollout | None,
        say: Callable[[str], None],
        given_up: Callable[[], bool],
    ) -> None:
        """Stages first, all at once; then the front, which calls them."""
        had = {stage.target.name: stage.target for stage in before.all} if before else {}
        pending = [s for s in new.stages if had.get(s.target.name) != s.target]
        # The front's replicas start while the stages do; they wait for them before they answer.
        local = self.settings["address"] == "local"
        patience_s = NO_ROOM_S if local else math.inf
        rayserve.deploy([s.target for s in pending], say, given_up, patience_s)
        for stage in pending:
            wait_loaded(stage, given_up)
        front = new.front.target
        rayserve.deploy([front], say, given_up, patience_s)
        wait_loaded(new.front, given_up)
        if local:
            say("waiting for its first answers")
            replicas = front.options.get("num_replicas") or 1
            wait_answers(self._base(front), new.front.version, replicas, given_up)

    def _base(self, front: rayserve.Target) -> str:
        base = f"http://{self.settings['reached_at']}:{self.settings['port']}"
        return base if front.route_prefix == "/" else f"{base}/{front.name}"

    def _describe(self, new: Rollout, spec: dict[str, Any], done: list[Change]) -> dict[str, Any]:
        name, front = spec["app"], new.front.target
        root = front.route_prefix == "/"
        base = self._base(front)
        return {
            "app": name,
            "root": root,
            "url": f"{base}/{name}" if root else base,
            "base": base,
            "plan": spec["plan"],
            "token": spec["token"],
            "fresh": spec["fresh"],
            "since": time.time(),
            "limits": spec["limits"],
            "sizes": spec.get("sizes", {}),
            "changes": [dataclasses.asdict(change) for change in done],
        }

    def _go_back(self, new: Rollout, before: Rollout | None) -> None:
        """Undo what was begun; stages that are only in the new one go."""
        extra = _applications(new) - (_applications(before) if before else set())
        if before is not None:
            targets = [stage.target for stage in before.all]
            rayserve.deploy(targets, lambda text: None, self._stop.is_set)
        rayserve.delete(sorted(extra))

    def do_status(self, say: Any, given_up: Any, app: str) -> dict[str, Any]:
        """State of an app and of each of its stages."""
        known = self._rollouts.get(app)
        if known is None:
            return {"state": "NOT_RUNNING", "message": "", "stages": {}}
        found = rayserve.status([stage.target.name for stage in known.all])
        stages = {stage.name: found[stage.target.name] for stage in known.all}
        worst = max(stages.values(), key=lambda one: _SEVERITY.get(one["state"], 1))
        return {"state": worst["state"], "message": worst["message"], "stages": stages}

    def do_placement(self, say: Any, given_up: Any, app: str) -> dict[str, Any]:
        """Where each replica of an app sits, and what is taken of each node."""
        known = self._rollouts.get(app)
        names = {s.target.name: s.name for s in known.all} if known else {}
        return details.placement(names)

    def do_metrics(
        self, say: Any, given_up: Any, app: str, since: int, scaling: int = 0
    ) -> dict[str, Any]:
        """What was counted and decided after numbers that an earlier answer gave; 0 for all."""
        self._watch.asked()
        last, deltas, decided = gathering.gathered(self.gatherer, "since", app, since, scaling)
        return {"last": last, "deltas": deltas, "scaling": decided}

    def do_traces(
        self, say: Any, given_up: Any, app: str, slowest: int = 0, id: str = ""
    ) -> list[Any]:
        """Packed traces: the slowest, or the one of an id."""
        found: list[Any] = gathering.gathered(self.gatherer, "traces", app, slowest, id)
        return found

    def do_peek(
        self, say: Any, given_up: Any, app: str, step: str, for_s: float
    ) -> list[dict[str, Any]]:
        """What was seen of a step lately; its replicas look into it from now on for a while."""
        until = time.time() + for_s
        found: list[dict[str, Any]] = gathering.gathered(self.gatherer, "peek", app, step, until)
        return found

    def do_delete(self, say: Any, given_up: Any, app: str) -> None:
        """Remove an app; one that is not there is no error."""
        if self.apps.pop(app, None) is not None:
            del self._specs[app]
            rayserve.delete(sorted(_applications(self._rollouts.pop(app))))
            gathering.gathered(self.gatherer, "forget", app)

    def do_stop(self, say: Any, given_up: Any) -> None:
        """End this session."""
        self._loop.call_soon_threadsafe(self._stop.set)


_SEVERITY = {"RUNNING": 0, "DEPLOYING": 1, "DELETING": 2, "UNHEALTHY": 3, "DEPLOY_FAILED": 4}


def _applications(rolled: Rollout) -> set[str]:
    return {stage.target.name for stage in rolled.all}


def _answered(method: Callable[[], Any]) -> dict[str, Any]:
    """A call's result or error as a message."""
    try:
        return {"result": method()}
    except MlkitError as error:
        parts = {k: getattr(error, k) for k in ("what", "where", "expected", "got", "fix")}
        return {"error": parts}
    except BaseException as error:
        return {"error": {"what": f"{type(error).__name__}: {error}"}}


def _start_watchdog(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that cleans up after this one when this one is killed."""
    reading, writing = os.pipe()
    environment = {k: v for k, v in os.environ.items() if k != "MLKIT_SESSION"}
    script = str(Path(__file__).with_name("watchdog.py"))
    watchdog = subprocess.Popen(
        [sys.executable, script, folder.name, str(folder), str(reading)],
        pass_fds=[reading],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reading)
    os.set_inheritable(writing, False)  # and it stays open as long as this process lives
    return watchdog


def main(argument: str) -> None:
    folder = Path(argument)
    settings = json.loads((folder / "settings.json").read_text())
    watchdog = _start_watchdog(folder)
    rayserve.start(
        settings["address"],
        host=settings["host"],
        port=settings["port"],
        object_store_bytes=settings["object_store_bytes"],
        folder=folder / "ray",
    )
    host = Host(folder, settings)
    try:
        asyncio.run(host.run())
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)  # it is ending already
        rayserve.stop(settings["address"], host.applications)
        from mlkit.serving.control.watchdog import sweep

        sweep(folder.name)
        folders.remove(folder)
        watchdog.terminate()  # nothing is left for it to do
        watchdog.wait()


if __name__ == "__main__":
    main(sys.argv[1])
