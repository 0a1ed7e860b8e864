"""The session process: starts Ray and Serve from its main thread, and does what kernels ask.

It is started detached, so that neither a kernel's end nor its signals reach Ray, and it ends by
itself when its owner is gone for longer than the lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlkit.errors import Cancelled, DeployError, MlkitError
from mlkit.serving import folders, rayserve, wire
from mlkit.serving.bundle import Origin
from mlkit.serving.limits import Limits
from mlkit.serving.owner import Owner
from mlkit.serving.replica import Shipment

__all__ = ["Host"]

ANSWER_TIMEOUT_S = 30.0


class Host:
    """Applications of one session, and what kernels may ask of it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.owner = Owner(**settings["owner"])
        self.lease_s = float(settings["lease_s"])
        self.apps: dict[str, dict[str, Any]] = {}
        self._targets: dict[str, rayserve.Target] = {}
        # What changes something is done one after the other; what only asks need not wait for it.
        self._busy = ThreadPoolExecutor(1, thread_name_prefix="mlkit-host")
        self._quick = ThreadPoolExecutor(2, thread_name_prefix="mlkit-host-ask")
        self._stop = asyncio.Event()
        self._alive_at = time.monotonic()

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
        pool = self._quick if name in ("about", "status", "stop") else self._busy
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
        target = self._target(spec)
        before = self._targets.get(name)
        if before is not None and before.version == target.version:
            return self.apps[name]
        about = self._describe(target, spec)
        try:
            rayserve.deploy(target, on_progress=say, cancelled=given_up)
            if self.settings["address"] == "local":
                say("waiting for its first answers")
                self._wait_answers(about["base"], target.version, given_up)
        except BaseException:
            if not self._stop.is_set():
                self._go_back(name, before)
            raise
        self._targets[name] = target
        self.apps[name] = about
        return about

    def _wait_answers(self, base: str, version: str, given_up: Callable[[], bool]) -> None:
        """Wait until the front end gives requests to the new version only.

        Serve has it running a moment before HAProxy has taken the old replica off its list.
        """
        until, seen = time.monotonic() + ANSWER_TIMEOUT_S, 0
        while seen < 3:
            if given_up():
                raise Cancelled("the deployment was interrupted")
            if time.monotonic() > until:
                raise DeployError("it runs and does not answer", where=base)
            seen = seen + 1 if _version_at(base) == version else 0
            time.sleep(0.02)

    def _target(self, spec: dict[str, Any]) -> rayserve.Target:
        name = spec["app"]
        known = self.apps.get(name)
        at_root = known["root"] if known else not any(a["root"] for a in self.apps.values())
        # What was rebuilt by fresh=True stays as it is when nothing changes after that.
        spec["fresh"] = spec["fresh"] or (known["fresh"] if known else "")
        counted = {k: v for k, v in spec.items() if k != "bundle"}
        shipment = Shipment(
            app=name,
            version=hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16],
            bundle=spec["bundle"],
            origin=Origin(spec["origin"]["folder"], tuple(spec["origin"]["search_path"])),
            logs=str(self.folder / "logs"),
            limits=Limits(**spec["limits"]),
            token=spec["token"],
            workers=spec["workers"],
        )
        return rayserve.Target(
            shipment=shipment,
            route_prefix="/" if at_root else f"/{name}",
            options=spec["options"],
        )

    def _describe(self, target: rayserve.Target, spec: dict[str, Any]) -> dict[str, Any]:
        name = target.shipment.app
        base = f"http://{self.settings['host']}:{self.settings['port']}"
        return {
            "app": name,
            "root": target.route_prefix == "/",
            "url": f"{base}/{name}",
            "base": base if target.route_prefix == "/" else f"{base}/{name}",
            "bundle": spec["bundle"],
            "token": spec["token"],
            "fresh": spec["fresh"],
            "since": time.time(),
        }

    def _go_back(self, name: str, before: rayserve.Target | None) -> None:
        if before is None:
            rayserve.delete(name)
        else:
            rayserve.deploy(before, on_progress=lambda text: None, cancelled=self._stop.is_set)

    def do_status(self, say: Any, given_up: Any, app: str) -> dict[str, Any]:
        """State of an app."""
        return rayserve.status(app)

    def do_delete(self, say: Any, given_up: Any, app: str) -> None:
        """Remove an app; one that is not there is no error."""
        if self.apps.pop(app, None) is not None:
            self._targets.pop(app, None)
            rayserve.delete(app)

    def do_stop(self, say: Any, given_up: Any) -> None:
        """End this session."""
        self._loop.call_soon_threadsafe(self._stop.set)


def _version_at(base: str) -> str | None:
    """The version of the replica that answers at this moment, if one does."""
    url = base.replace("//0.0.0.0", "//127.0.0.1") + "/readyz"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(json.load(answer)["version"])
    except (OSError, ValueError, KeyError):
        return None


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
    )
    try:
        asyncio.run(Host(folder, settings).run())
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)  # it is ending already
        rayserve.stop()
        from mlkit.serving.watchdog import sweep

        sweep(folder.name)
        folders.remove(folder)
        watchdog.terminate()  # nothing is left for it to do
        watchdog.wait()


if __name__ == "__main__":
    main(sys.argv[1])
