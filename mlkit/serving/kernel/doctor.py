"""Diagnosis of this machine: installed packages, resources, and obstacles to serving."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import mlkit
from mlkit.errors import MlkitError, SessionError
from mlkit.execute.cores import cores
from mlkit.plan.machine import available_memory, memory
from mlkit.serving.control import folders
from mlkit.serving.control.flags import cluster_environment
from mlkit.serving.control.haproxy import haproxy_binary
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel.session import Session
from mlkit.serving.private import PRIVATE_USES, PrivateUse, missing_uses

__all__ = ["Examination", "Finding", "Findings", "about_machine", "examine"]

REQUIRED = (
    "ray", "fastapi", "uvicorn", "pydantic", "starlette", "httpx2", "cloudpickle", "numpy",
    "pandas", "pillow", "simplejpeg",
)  # fmt: skip
EXTRAS = {
    "models": ("openvino", "torch"),
    "load": ("matplotlib",),
    "notebook": ("ipywidgets", "jupyterlab"),
}
"""Packages by the extra of mlkit that installs them."""
TESTED_RAY = "2.60."
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """An obstacle to serving.

    Attributes:
        what: the problem.
        fix: how to solve it.
        blocks: whether nothing can be served until then.
    """

    what: str
    fix: str
    blocks: bool = False

    def __str__(self) -> str:
        return f"  {'✗' if self.blocks else '!'} {self.what}\n      → {self.fix}"


class Findings(tuple[Finding, ...]):
    """What will go wrong, and how to prevent it; what blocks comes first."""

    def __str__(self) -> str:
        return _listed(self)

    __repr__ = __str__


def _listed(findings: Iterable[Finding]) -> str:
    ordered = sorted(findings, key=lambda finding: not finding.blocks)
    return "\n".join(["problems", *map(str, ordered)] if ordered else ["no problems"])


@dataclass(frozen=True)
class Examination:
    """The diagnosis of a machine.

    Attributes:
        installed: versions by package; None for a missing one.
        machine: its resources.
        findings: the obstacles.
    """

    installed: Mapping[str, str | None]
    machine: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding blocks."""
        return not any(finding.blocks for finding in self.findings)

    def to_json(self) -> str:
        """Return the diagnosis as a JSON object."""
        return json.dumps({**asdict(self), "healthy": self.healthy}, indent=2)

    def __str__(self) -> str:
        versions = {name: version or "missing" for name, version in self.installed.items()}
        tables = ["installed", *_table(versions), "", "this machine", *_table(self.machine), ""]
        return "\n".join([*tables, _listed(self.findings)])


def _table(facts: Mapping[str, str]) -> list[str]:
    return [f"  {name:<16} {value}" for name, value in facts.items()]


def examine(capabilities: Mapping[str, str] | None = None) -> Examination:
    """Diagnose this machine; starts and changes nothing.

    Args:
        capabilities: what models can use of this machine, to list with its resources.
    """
    installed: dict[str, str | None] = {"mlkit": mlkit.__version__}
    installed["python"] = platform.python_version()
    installed |= {name: _version(name) for name in (*REQUIRED, *chain(*EXTRAS.values()))}
    haproxy, broken = _haproxy()
    installed["haproxy"] = haproxy
    findings = [
        *about_python(sys.version_info[:2], sys.platform),
        *about_packages(installed),
        *broken,
        *about_machine(),
        *about_environment(os.environ),
        *about_private_names(),
        *about_port(8000, holder_of(8000)),
        *_about_foreign_rays(),
        *_about_folder(),
    ]
    return Examination(installed, {**_machine(), **(capabilities or {})}, tuple(findings))


def about_machine() -> Iterator[Finding]:
    """Check this machine's resources."""
    yield from about_memory(available_memory())
    yield from about_shared_memory(_free("/dev/shm"))
    yield from about_disk(_free("/tmp"), shutil.disk_usage("/tmp").total)
    yield from about_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def about_private_names(uses: Sequence[PrivateUse] = PRIVATE_USES) -> Iterator[Finding]:
    """Check that the installed libraries have the private names that are used."""
    for use in missing_uses(uses):
        yield Finding(str(use), "install the versions of these libraries in requirements.lock")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _haproxy() -> tuple[str | None, list[Finding]]:
    try:
        output = subprocess.run(
            [haproxy_binary(), "-v"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except SessionError as error:
        return None, [Finding(error.what, error.fix or "", blocks=True)]
    except (OSError, subprocess.SubprocessError) as error:
        return None, [
            Finding(f"HAProxy does not run: {error}", "reinstall ray[serve]", blocks=True)
        ]
    words = output.split()
    return (words[2] if len(words) > 2 else output.strip()), []


def _machine() -> dict[str, str]:
    total, available = memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{cores()} of {os.cpu_count()}",
        "memory": f"{total / GIB:.1f} GiB, {available / GIB:.1f} free",
        "/dev/shm": f"{_free('/dev/shm') / GIB:.1f} GiB free",
        "/tmp": f"{_free('/tmp') / GIB:.1f} GiB free",
        "open files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    }


def _free(path: str) -> int:
    return shutil.disk_usage(path).free if Path(path).is_dir() else 0


# ---- checks: pure functions of measured values ---------------------------------------------------


def about_python(version: tuple[int, ...], system: str) -> Iterator[Finding]:
    if not (3, 11) <= version < (3, 14):
        shown = ".".join(map(str, version))
        yield Finding(f"Python {shown} is not supported", "use Python 3.11 to 3.13", blocks=True)
    if system != "linux":
        yield Finding(f"serving requires Linux, not {system}", "use Linux", blocks=True)


def about_packages(installed: Mapping[str, str | None]) -> Iterator[Finding]:
    missing = {name for name, version in installed.items() if version is None}
    for name in REQUIRED:
        if name in missing:
            yield Finding(f"{name} is not installed", f"pip install {name}", blocks=True)
    for extra, packages in EXTRAS.items():
        if lacking := missing.intersection(packages):
            yield Finding(
                f"not installed: {', '.join(sorted(lacking))} (the extra {extra!r})",
                f'if you need it: pip install "mlkit[{extra}]"',
            )
    ray = installed.get("ray")
    if ray and not ray.startswith(TESTED_RAY):
        yield Finding(f"ray {ray} is untested", f"install ray {TESTED_RAY}*")


def about_memory(free: int) -> Iterator[Finding]:
    if free < 2 * GIB:
        yield Finding(
            f"only {free / GIB:.1f} GiB of memory are free; Ray and Serve alone take about one",
            "free some; a session ends when the kernel of its notebook is shut down",
            blocks=free < GIB,
        )


def about_shared_memory(free: int) -> Iterator[Finding]:
    if free < GIB // 4:
        yield Finding(
            f"/dev/shm has {free / 2**20:.0f} MiB free; Ray's object store needs 200 MiB",
            "enlarge it (docker run --shm-size=1g); otherwise /tmp is used, which is slower",
        )


def about_disk(free: int, total: int) -> Iterator[Finding]:
    if free < total // 20:
        yield Finding(
            "/tmp is more than 95% full; Ray stops working there", "free some space in /tmp"
        )


def about_files(limit: int) -> Iterator[Finding]:
    if 0 <= limit < 8192:
        yield Finding(
            f"a process may open {limit} files; HAProxy and Ray need more than 8,192",
            "raise the hard limit (ulimit -Hn 65536)",
        )


def about_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    if address := environment.get("RAY_ADDRESS"):
        yield Finding(
            f"RAY_ADDRESS is set ({address}), but a session starts its own Ray",
            "deploy(pipeline, address=...) joins that cluster",
        )
    others = sorted(n for n in environment if n.startswith("RAY_") and n != "RAY_ADDRESS")
    if others:
        yield Finding(
            f"set in the environment: {', '.join(others)}; they configure Ray and Serve",
            "unset them unless that is intended",
        )


def about_port(port: int, holder: str | None) -> Iterator[Finding]:
    """Check a port.

    Args:
        port: its number.
        holder: the process that listens on it, "" if it is unknown; None if the port is free.
    """
    if holder is not None:
        yield Finding(
            f"port {port}, the default of `mlkit serve`, is in use"
            + (f" by {holder}" if holder else " by a process of another user"),
            "pass --port to mlkit serve (deploy uses any free port)",
        )


def holder_of(port: int) -> str | None:
    """Return the process that listens on a loopback port; "" if unknown, None if it is free."""
    with closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return None
    import psutil

    try:
        listening = [
            c.pid
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port and c.pid
        ]
        return f"process {listening[0]} ({psutil.Process(listening[0]).name()})"
    except (psutil.Error, IndexError, OSError):
        return ""


def about_ray(
    name: str, flags: Mapping[str, str], variables: Mapping[str, str]
) -> Iterator[Finding]:
    """Check a Ray that mlkit has not started for the flags of a fast Serve.

    Args:
        name: its name.
        flags: variables with which it should have been started.
        variables: those with which it was.
    """
    missing = sorted(flag for flag, value in flags.items() if variables.get(flag) != value)
    if missing:
        yield Finding(
            f"{name} was started without {', '.join(missing)}; a Serve that already runs on it is "
            "slow, and takes half a minute to replace a replica",
            "stop that Serve before deploy(pipeline, address=...), or start Ray with these set",
        )


# ---- sessions -----------------------------------------------------------------------------------


def _about_foreign_rays() -> Iterator[Finding]:
    """Check the Rays of this user that no session of mlkit has started."""
    import psutil

    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "raylet":
            continue
        try:
            variables = process.environ()
        except psutil.Error:  # of another user, or gone
            continue
        if "MLKIT_SESSION" not in variables:
            yield from about_ray(
                f"the Ray of process {process.pid}", cluster_environment(), variables
            )


def _about_folder() -> Iterator[Finding]:
    try:
        base = folders.base_folder()
    except (SessionError, OSError) as error:
        fix = getattr(error, "fix", None) or "set MLKIT_RUNTIME_DIR to another folder"
        yield Finding(str(getattr(error, "what", error)), fix, blocks=True)
        return
    if os.statvfs(base).f_flag & getattr(os, "ST_NOEXEC", 0):
        yield Finding(
            f"{base} is mounted noexec",
            "set MLKIT_RUNTIME_DIR to a folder elsewhere",
            blocks=True,
        )
    for folder in folders.all_folders():
        yield from about_session(folder)


def about_session(
    folder: Path, processes: Callable[[str], list[Any]] = processes_of
) -> Iterator[Finding]:
    """Check whether a session is orphaned, and how to remove it."""
    try:
        about = Session(folder).about()
    except MlkitError:
        yield from _about_remains(folder, processes)
        return
    owner = about.owner
    if not owner.alive:
        yield Finding(
            f"session {folder.name} is still running although its owner, process {owner.pid}, has "
            "ended; it stops when its lease expires",
            f"attach() to it, or stop it now: kill {about.pid}",
        )


def _about_remains(folder: Path, processes: Callable[[str], list[Any]]) -> Iterator[Finding]:
    if _owner_lives(folder):
        return  # it is starting
    pids = " ".join(str(process.pid) for process in processes(folder.name))
    yield Finding(
        f"session {folder.name} has ended and left {'processes' if pids else 'its folder'} behind",
        (f"kill {pids}; " if pids else "") + f"rm -r {folder}",
    )


def _owner_lives(folder: Path) -> bool:
    try:
        return Owner(**json.loads((folder / "settings.json").read_text())["owner"]).alive
    except (OSError, ValueError, KeyError, TypeError):
        return False
