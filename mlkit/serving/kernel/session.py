"""Client of the session process: start it, find it again, and call it.

A session is a detached process that runs Ray and Serve (`mlkit.serving.control.host`). Each
notebook has one, which survives a restart of the kernel until its lease expires.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mlkit.errors import DeployError, SessionError, SessionTimeout
from mlkit.serving.control import folders
from mlkit.serving.control.flags import free_port
from mlkit.serving.control.haproxy import Tls
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.protocol import (
    PROTOCOL,
    SOCKET,
    About,
    Call,
    DeleteApp,
    ErrorReply,
    Own,
    SessionInfo,
    StopSession,
)
from mlkit.serving.control.store import Store
from mlkit.serving.control.watchdog import sweep
from mlkit.serving.kernel.process import (
    ends,
    has_processes,
    is_attended,
    last_line,
    spawn,
    started,
)
from mlkit.serving.kernel.transport import exchange

__all__ = ["Session", "notebook_key"]

Progress = Callable[[str], None]
Reply = TypeVar("Reply")
SESSION_VARIABLE = "MLKIT_SESSION"
"""Names a session that outlasts its last app and its kernel, until its lease expires."""
START_TIMEOUT_S = 240.0
LEASE_S = 120.0
STOP_TIMEOUT_S = 30.0
ABOUT_TIMEOUT_S = 5.0


def notebook_key() -> str:
    """Return an identifier of this notebook that a restart of its kernel does not change.

    Notebooks that run one after another with the same ``MLKIT_SESSION`` count as one.
    """
    name = os.environ.get(SESSION_VARIABLE) or os.environ.get("JPY_SESSION_NAME")
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return name or (str(Path(main).resolve()) if main else str(Path.cwd()))


@dataclass
class Session:
    """A session process, identified by its folder."""

    folder: Path

    @classmethod
    def start(
        cls,
        *,
        address: str = "local",
        host: str = "127.0.0.1",
        port: int | None = None,
        lease_s: float | None = None,
        tls: Tls | None = None,
        say: Progress = lambda text: None,
    ) -> Session:
        """Start a session for this process and wait until it is ready.

        If the wait is interrupted, what was started ends in the background.

        Raises:
            SessionError: it did not start; quotes the last line of its log.
        """
        session = cls.begin(address=address, host=host, port=port, lease_s=lease_s, tls=tls)
        say("starting Ray and Serve" if address == "local" else f"joining {address}")
        try:
            session.wait_ready()
        except KeyboardInterrupt:
            session._end_soon()
            raise
        except BaseException:
            session.end()
            raise
        return session

    @classmethod
    def begin(
        cls,
        *,
        address: str = "local",
        host: str = "127.0.0.1",
        port: int | None = None,
        lease_s: float | None = None,
        tls: Tls | None = None,
    ) -> Session:
        """Start a session for this process, without waiting; see `wait_ready`.

        Raises:
            SessionError: its process cannot be started.
        """
        _clear_remains()
        if port is not None:
            _wait_for_released()  # one of them may have the port
        folder = folders.create()
        settings = {
            "address": address,
            "host": host if address == "local" else "0.0.0.0",  # other nodes connect
            "reached_at": _reached_at(address, host),
            "port": port or free_port(),
            "lease_s": _lease(lease_s),
            "notebook": notebook_key(),
            "owner": dataclasses.asdict(Owner.of(os.getpid())),
            "object_store_bytes": 200 * 2**20,
        }
        session = cls(folder)
        try:
            (folder / "settings.json").write_text(json.dumps(settings))
            started[folder] = spawn(folder, address, tls)
        except BaseException:
            session.end()
            folders.remove(folder)  # even if the process was not started yet
            raise
        # A script cannot reconnect.
        if "ipykernel" not in sys.modules and not os.environ.get(SESSION_VARIABLE):
            atexit.register(session.stop)
        return session

    @property
    def ready(self) -> bool:
        """Whether it has begun to take calls, and has not ended since."""
        return (self.folder / "ready").exists()

    def wait_ready(self) -> None:
        """Wait until a session that this process has started takes calls.

        Raises:
            SessionError: it did not start; quotes the last line of its log.
        """
        until = time.monotonic() + START_TIMEOUT_S
        while not self.ready:
            if not self.running or time.monotonic() > until:
                raise SessionError(
                    "the session process did not start",
                    got=last_line(self.folder / "host.log"),
                    fix="run `mlkit doctor`",
                )
            time.sleep(0.02)

    @classmethod
    def all(cls) -> Iterator[Session]:
        """Yield the sessions of this user, including those that ended without cleaning up."""
        for folder in folders.all_folders():
            if (folder / SOCKET).exists():
                yield cls(folder)

    @classmethod
    def of_this_notebook(cls) -> Session | None:
        """Return this process's session, or the orphaned session of this notebook.

        Raises:
            SessionTimeout: it exists, but does not respond in time.
        """
        mine, orphan = None, None
        for session in cls.all():
            if session.folder in _released:
                continue
            try:
                about = session.about()
            except SessionTimeout:
                if session._started_here:
                    raise  # starting a second Ray would not help
                continue
            except DeployError:  # it has just ended
                continue
            owner = about.owner
            if owner.pid == os.getpid() and owner.alive:
                mine = session
            elif about.notebook == notebook_key() and not owner.alive:
                orphan = session
        if mine is None and orphan is not None:
            orphan.own()
        return mine or orphan

    @property
    def _started_here(self) -> bool:
        """Whether this process or this notebook started it, according to its settings file."""
        settings = json.loads((self.folder / "settings.json").read_text())
        owner, notebook = settings["owner"]["pid"], settings["notebook"]
        return bool(owner == os.getpid() or notebook == notebook_key())

    @property
    def store(self) -> Store:
        """The store for code, plans and policies."""
        return Store(self.folder / folders.BUNDLES)

    def about(self) -> SessionInfo:
        """Return the session's owner, settings and apps."""
        return self.call(About(), timeout_s=ABOUT_TIMEOUT_S)

    def delete(self, app: str) -> None:
        """Delete an app; with the last one the session ends, unless ``MLKIT_SESSION`` keeps it.

        Ray and Serve stop after the call has returned: the session process waits for them and is
        killed where they hang, and its watchdog ends the remaining ones.
        """
        last_ends = not os.environ.get(SESSION_VARIABLE)
        if not self.call(DeleteApp(app=app, last_ends=last_ends)) and last_ends:
            _released.add(self.folder)

    def own(self) -> None:
        """Make this process the owner, whose end starts the lease."""
        self.call(Own(pid=os.getpid()))

    def call(
        self,
        call: Call[Reply],
        *,
        say: Progress = lambda text: None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Call the session process; see `mlkit.serving.control.protocol`.

        Raises:
            SessionTimeout: no response in time; the process may still run.
            SessionError: it has ended, or does not know the call.
            DeployError: the call failed.
        """
        import httpx2

        path = f"http://session/{PROTOCOL}/{type(call).__name__}"
        self._check_listens()
        try:
            with exchange(
                self._transport,
                "POST",
                path,
                content=call.model_copy(update={"by": _caller()}).model_dump_json(),
                timeout=httpx2.Timeout(timeout_s),
            ) as response:
                for line in response.iter_lines():
                    message = json.loads(line)
                    if "progress" in message:
                        say(message["progress"])
                    elif "error" in message:
                        raise ErrorReply.model_validate(message["error"]).error()
                    else:
                        reply: Reply = TypeAdapter(call.reply).validate_python(message["result"])
                        return reply
        except httpx2.TimeoutException as error:
            raise SessionTimeout(
                f"the session process did not respond within {timeout_s:g} s",
                where=f"session {self.folder.name}",
                fix="try again: the machine may be busy",
            ) from error
        except httpx2.TransportError as error:
            raise self._gone() from error
        raise self._gone()

    def _check_listens(self) -> None:
        """Raise if nothing listens; the HTTP client would leak a socket."""
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(str(self.folder / SOCKET))
            except OSError as error:
                raise self._gone() from error

    def _gone(self) -> SessionError:
        return SessionError(
            "the session process has ended",
            where=f"session {self.folder.name}",
            fix="deploy again, which starts a new one",
        )

    @cached_property
    def _transport(self) -> Any:
        import httpx2

        # No TLS on a Unix socket: skips loading the certificates.
        transport = httpx2.HTTPTransport(uds=str(self.folder / SOCKET), verify=False)
        # At exit, it is still needed: to stop the session.
        weakref.finalize(self, transport.close).atexit = False
        return transport

    def stop(self) -> None:
        """Stop the session and wait until its processes have ended."""
        try:
            pid = self.about().pid
        except DeployError:
            self._wait_released()
            self.end()
            return
        with suppress(DeployError):  # it may end before it has responded
            self.call(StopSession(), timeout_s=5)
        if ends(pid, STOP_TIMEOUT_S):
            started.pop(self.folder, None)
        else:
            self.end()

    def _wait_released(self) -> None:
        """Wait for the end of a session that is ending, if it is one; see `delete`."""
        if self.folder in _released:
            until = time.monotonic() + STOP_TIMEOUT_S
            while self.folder.exists() and time.monotonic() < until:
                time.sleep(0.02)
            _released.discard(self.folder)

    @property
    def running(self) -> bool:
        """Whether the process was started by this one and is still running."""
        process = started.get(self.folder)
        return process is not None and process.poll() is None

    def _end_soon(self) -> None:
        """End a session without waiting; what needs its port waits, as for one that is deleted."""
        _released.add(self.folder)
        threading.Thread(target=self.end, name="mlkit-ending", daemon=True).start()

    def end(self) -> None:
        """Terminate a child process that does not respond, and wait for its watchdog."""
        process = started.pop(self.folder, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        until = time.monotonic() + 10
        while has_processes(self.folder) and time.monotonic() < until:
            time.sleep(0.1)
        folders.remove(self.folder)


def _caller() -> str:
    """This process, as the audit log names it."""
    return f"{notebook_key()} (pid {os.getpid()})"


def _reached_at(address: str, host: str) -> str:
    """The host in an app's URL."""
    if address == "local":
        return "127.0.0.1" if host == "0.0.0.0" else host
    return address.removeprefix("ray://").rpartition(":")[0] or "127.0.0.1"


_released: set[Path] = set()
"""Folders of sessions that end in the background."""


def _wait_for_released() -> None:
    for folder in list(_released):
        Session(folder)._wait_released()


def _clear_remains() -> None:
    """Remove what sessions have left that were killed together with their watchdogs."""
    for folder in folders.all_folders():
        if not _may_start(folder) and not is_attended(folder):
            sweep(folder.name)
            folders.remove(folder)


def _may_start(folder: Path) -> bool:
    """Whether a session that has no process has just been created, as far as its files say."""
    process = started.get(folder)
    if process is not None:
        return process.poll() is None
    try:
        settings = json.loads((folder / "settings.json").read_text())
        return Owner(**settings["owner"]).alive
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, or of something else
        return True


def _lease(lease_s: float | None) -> float:
    if lease_s is not None:
        return lease_s
    return float(os.environ.get("MLKIT_LEASE_S", LEASE_S))
