"""Where a session keeps its socket, logs and shipped code: a folder of this user alone."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mlkit.errors import SessionError

__all__ = ["BUNDLES", "LOGS", "all_folders", "base_folder", "create", "remove"]

LONGEST = 20
BUNDLES = "bundles"
"""Part of a session's folder: what the kernel stores."""
LOGS = "logs"
"""Part of a session's folder: what replicas print."""


def base_folder() -> Path:
    """The folder that holds one folder per session, made if missing, readable by this user only.

    ``MLKIT_RUNTIME_DIR`` moves it. Its path has to be short: a Unix socket's address has room for
    about a hundred bytes, and Serve puts a node's id of 56 into HAProxy's.

    Raises:
        SessionError: it belongs to somebody else, others can read it, or its path is too long.
    """
    default = f"/tmp/mlkit-{os.getuid()}"
    base = Path(os.environ.get("MLKIT_RUNTIME_DIR", default))
    if len(os.fsencode(base.absolute())) > LONGEST:
        raise SessionError(
            "the path of the folder for sessions is too long",
            where=str(base),
            expected=f"at most {LONGEST} bytes",
            fix="name a shorter one with MLKIT_RUNTIME_DIR",
        )
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if found.st_uid != os.getuid() or not private:
        raise SessionError(
            f"{base} is not a folder of this user alone",
            fix="remove it, or name another with MLKIT_RUNTIME_DIR",
        )
    return base


def create() -> Path:
    """A new, empty folder for a session."""
    folder = base_folder() / secrets.token_hex(4)
    for part in ("", BUNDLES, LOGS, "errors"):
        (folder / part).mkdir(mode=0o700)
    return folder


def all_folders() -> Iterator[Path]:
    """The folders of all sessions, of those that are gone too."""
    base = base_folder()
    yield from sorted(path for path in base.iterdir() if path.is_dir())


def remove(folder: Path) -> None:
    """Delete a session's folder; what cannot be deleted is left."""
    shutil.rmtree(folder, ignore_errors=True)
