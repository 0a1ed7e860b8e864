"""What is installed, what this machine can do, and what is in the way of serving here."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import mlkit
from mlkit.errors import MlkitError, SessionError
from mlkit.serving.control import folders
from mlkit.serving.control.haproxy import haproxy_binary
from mlkit.serving.control.owner import Owner
from mlkit.serving.control.watchdog import processes_of
from mlkit.serving.kernel.session import Session
from mlkit.serving.private import PrivateName, missing_names

__all__ = ["Examination", "Finding", "examine"]

NEEDED = (
    "ray", "fastapi", "uvicorn", "pydantic", "starlette", "httpx2", "cloudpickle", "numpy",
    "pandas", "pillow", "simplejpeg", "openvino", "torch", "matplotlib", "ipywidgets", "jupyterlab",
)  # fmt: skip
WRITTEN_FOR_RAY = "2.60."
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """Something that is in the way, or may come to be.

    Attributes:
        what: it is.
        fix: what to do about it.
        blocks: whether nothing can be served before that is done.
    """

    what: str
    fix: str
    blocks: bool = False

    def __str__(self) -> str:
        return f"  {'✗' if self.blocks else '!'} {self.what}\n      → {self.fix}"


@dataclass(frozen=True)
class Examination:
    """What was found on this machine.

    Attributes:
        installed: versions by package; None for one that is missing.
        machine: what it has and can do.
        findings: what is in the way.
    """

    installed: Mapping[str, str | None]
    machine: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing blocks."""
        return not any(finding.blocks for finding in self.findings)

    def to_json(self) -> str:
        """All of it as a JSON object."""
        return json.dumps({**asdict(self), "healthy": self.healthy}, indent=2)

    def __str__(self) -> str:
        versions = {name: version or "missing" for name, version in self.installed.items()}
        found = [str(f) for f in sorted(self.findings, key=lambda f: not f.blocks)]
        return "\n".join(
            ["installed", *_table(versions), "", "this machine", *_table(self.machine), ""]
            + (["in the way", *found] if found else ["nothing is in the way"])
        )


def _table(facts: Mapping[str, str]) -> list[str]:
    return [f"  {name:<16} {value}" for name, value in facts.items()]


def examine(capabilities: Mapping[str, str] | None = None) -> Examination:
    """Look at this machine; nothing is started or changed.

    Args:
        capabilities: what models can use of it, to be listed with the rest.
    """
    installed: dict[str, str | None] = {"mlkit": mlkit.__version__}
    installed["python"] = platform.python_version()
    installed |= {name: _version(name) for name in NEEDED}
    haproxy, broken = _haproxy()
    installed["haproxy"] = haproxy
    findings = [
        *about_python(sys.version_info[:2], sys.platform),
        *about_packages(installed),
        *broken,
        *about_memory(_memory()[1]),
        *about_shared_memory(_free("/dev/shm")),
        *about_disk(_free("/tmp"), shutil.disk_usage("/tmp").total),
        *about_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        *about_environment(os.environ),
        *about_private_names(),
        *about_port(8000),
        *_about_folder(),
    ]
    return Examination(installed, {**_machine(), **(capabilities or {})}, tuple(findings))


def about_private_names(missing: Sequence[PrivateName] | None = None) -> Iterator[Finding]:
    """Whether what is installed lacks names that are not public and are used."""
    for name in missing_names() if missing is None else missing:
        yield Finding(
            f"{name.name} is gone, which is {name.used_for}; {name.without}",
            "install the version of ray, fastapi or starlette that requirements.lock names",
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _haproxy() -> tuple[str | None, list[Finding]]:
    try:
        said = subprocess.run(
            [haproxy_binary(), "-v"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except SessionError as error:
        return None, [Finding(error.what, error.fix or "", blocks=True)]
    except (OSError, subprocess.SubprocessError) as error:
        return None, [
            Finding(f"HAProxy does not run: {error}", "reinstall ray[serve]", blocks=True)
        ]
    words = said.split()
    return (words[2] if len(words) > 2 else said.strip()), []


def _machine() -> dict[str, str]:
    total, available = _memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count()),
        "memory": f"{total / GIB:.1f} GiB, {available / GIB:.1f} free",
        "/dev/shm": f"{_free('/dev/shm') / GIB:.1f} GiB free",
        "/tmp": f"{_free('/tmp') / GIB:.1f} GiB free",
        "open files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    }


def _memory() -> tuple[int, int]:
    """Total and free bytes, within a container's limit where there is one."""
    found = psutil.virtual_memory()
    limit, used = (_number(f"/sys/fs/cgroup/memory.{n}") for n in ("max", "current"))
    if limit is None or limit >= found.total:
        return found.total, found.available
    return limit, min(found.available, limit - (used or 0))


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _free(path: str) -> int:
    return shutil.disk_usage(path).free if Path(path).is_dir() else 0


# ---- checks: each says what a value means, and is given the value ------------------------------


def about_python(version: tuple[int, ...], system: str) -> Iterator[Finding]:
    if not (3, 11) <= version < (3, 14):
        shown = ".".join(map(str, version))
        yield Finding(f"Python {shown} is not supported", "use Python 3.11 to 3.13", blocks=True)
    if system != "linux":
        yield Finding(f"serving is written for Linux, not {system}", "use Linux", blocks=True)


def about_packages(installed: Mapping[str, str | None]) -> Iterator[Finding]:
    for name, version in installed.items():
        if version is None and name != "haproxy":
            yield Finding(f"{name} is not installed", f"pip install {name}", blocks=True)
    ray = installed.get("ray")
    if ray and not ray.startswith(WRITTEN_FOR_RAY):
        yield Finding(f"ray {ray} was not tried", f"install ray {WRITTEN_FOR_RAY}*")


def about_memory(free: int) -> Iterator[Finding]:
    if free < 2 * GIB:
        yield Finding(
            f"only {free / GIB:.1f} GiB of memory are free; Ray and Serve alone take about one",
            "end what takes it; sessions end when their notebooks' kernels do",
            blocks=free < GIB,
        )


def about_shared_memory(free: int) -> Iterator[Finding]:
    if free < GIB // 4:
        yield Finding(
            f"/dev/shm has {free / 2**20:.0f} MiB free; Ray's object store wants 200 MiB",
            "make it larger (docker run --shm-size=1g); until then /tmp is used, which is slower",
        )


def about_disk(free: int, total: int) -> Iterator[Finding]:
    if free < total // 20:
        yield Finding("/tmp is more than 95% full; Ray stops working there", "make room in /tmp")


def about_files(limit: int) -> Iterator[Finding]:
    if 0 <= limit < 8192:
        yield Finding(
            f"a process may open {limit} files; HAProxy and Ray want more than 8,192",
            "raise the hard limit (ulimit -Hn 65536)",
        )


def about_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    if address := environment.get("RAY_ADDRESS"):
        yield Finding(
            f"RAY_ADDRESS is set ({address}); a session starts a Ray of its own all the same",
            "deploy(pipeline, address=...) joins that cluster",
        )
    others = sorted(n for n in environment if n.startswith("RAY_") and n != "RAY_ADDRESS")
    if others:
        yield Finding(
            f"set in the environment: {', '.join(others)}; they change how Ray and Serve behave",
            "unset them, if that is not wanted",
        )


def about_port(port: int) -> Iterator[Finding]:
    with closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            yield Finding(
                f"port {port} is in use, which `mlkit serve` takes by default",
                "mlkit serve --port another (deploy takes any free one)",
            )


# ---- sessions -----------------------------------------------------------------------------------


def _about_folder() -> Iterator[Finding]:
    try:
        base = folders.base_folder()
    except (SessionError, OSError) as error:
        fix = getattr(error, "fix", None) or "name another with MLKIT_RUNTIME_DIR"
        yield Finding(str(getattr(error, "what", error)), fix, blocks=True)
        return
    if os.statvfs(base).f_flag & getattr(os, "ST_NOEXEC", 0):
        yield Finding(
            f"nothing can be executed in {base}: it is mounted noexec",
            "name a folder elsewhere with MLKIT_RUNTIME_DIR",
            blocks=True,
        )
    for folder in folders.all_folders():
        yield from about_session(folder)


def about_session(
    folder: Path, processes: Callable[[str], list[Any]] = processes_of
) -> Iterator[Finding]:
    """Whether a session was left behind, and how to be rid of it."""
    try:
        about = Session(folder).about()
    except MlkitError:
        yield from _about_remains(folder, processes)
        return
    owner = about.owner
    if not owner.alive:
        yield Finding(
            f"session {folder.name} runs on though process {owner.pid}, for which it was started, "
            "is gone; it ends by itself when its lease runs out",
            f"attach() to it, or end it now: kill {about.pid}",
        )


def _about_remains(folder: Path, processes: Callable[[str], list[Any]]) -> Iterator[Finding]:
    if _owner_lives(folder):
        return  # it is being started
    left = " ".join(str(process.pid) for process in processes(folder.name))
    yield Finding(
        f"session {folder.name} is gone and left {'processes' if left else 'its folder'} behind",
        (f"kill {left}; " if left else "") + f"rm -r {folder}",
    )


def _owner_lives(folder: Path) -> bool:
    try:
        return Owner(**json.loads((folder / "settings.json").read_text())["owner"]).alive
    except (OSError, ValueError, KeyError, TypeError):
        return False
