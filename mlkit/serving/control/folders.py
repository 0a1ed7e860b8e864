"""Folders of sessions, for sockets, logs and shipped code; accessible to this user only."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mlkit.errors import SessionError
from mlkit.serving.replica.pulse import PULSES

__all__ = ["BUNDLES", "LOGS", "all_folders", "base_folder", "create", "remove"]

MAX_PATH_BYTES = 20
BUNDLES = "bundles"
"""Subfolder of the objects that the kernel stores."""
LOGS = "logs"
"""Subfolder of the replicas' output."""


def base_folder() -> Path:
    """Return the folder of all sessions, which is created if missing.

    ``MLKIT_RUNTIME_DIR`` sets it. Its path must be short: the address of a Unix socket is limited
    to about 100 bytes, 56 of which Serve needs for a node id in HAProxy's.

    Raises:
        SessionError: it cannot be created, has another owner, is accessible to others, or its path
            is too long.
    """
    base = Path(os.environ.get("MLKIT_RUNTIME_DIR", f"/tmp/mlkit-{os.getuid()}"))
    if len(os.fsencode(base.absolute())) > MAX_PATH_BYTES:
        raise SessionError(
            "the path of the sessions' folder is too long",
            where=str(base),
            expected=f"at most {MAX_PATH_BYTES} bytes",
            fix="set MLKIT_RUNTIME_DIR to a shorter one",
        )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise _not_writable(base, error) from None
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != os.getuid() or not private:
        raise SessionError(
            f"{base} is not a folder of this user alone",
            fix="remove it, or set MLKIT_RUNTIME_DIR to another",
        )
    return base


def create() -> Path:
    """Create the folder of a new session.

    Raises:
        SessionError: it cannot be created, as on a full disk; see also `base_folder`.
    """
    folder = base_folder() / secrets.token_hex(4)
    try:
        for part in ("", BUNDLES, LOGS, PULSES, "errors"):
            (folder / part).mkdir(mode=0o700)
    except OSError as error:
        remove(folder)
        raise _not_writable(folder, error) from None
    return folder


def _not_writable(folder: Path, error: OSError) -> SessionError:
    return SessionError(
        "the folder of a session cannot be created",
        where=str(folder),
        got=error.strerror or str(error),
        fix="set MLKIT_RUNTIME_DIR to a folder that can be written",
    )


def all_folders() -> Iterator[Path]:
    """Yield the folders of all sessions, including those that have ended."""
    yield from sorted(path for path in base_folder().iterdir() if path.is_dir())


def remove(folder: Path) -> None:
    """Delete a session's folder, ignoring errors."""
    shutil.rmtree(folder, ignore_errors=True)
