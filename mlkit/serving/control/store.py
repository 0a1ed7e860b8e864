"""Content-addressed storage of a session's pickled code, plans and policies."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Store"]

GRACE_S = 300.0
"""Minimum age of deleted objects: a kernel stores them before its call refers to them."""


@dataclass(frozen=True)
class Store:
    """Objects by the SHA-256 of their contents. The kernel writes, the session deletes.

    Attributes:
        now: clock in seconds since the epoch.
    """

    folder: Path
    now: Callable[[], float] = time.time

    def put(self, data: bytes) -> str:
        """Store an object atomically and return its key."""
        key = hashlib.sha256(data).hexdigest()
        path = self.path(key)
        if path.exists():
            path.touch()
            return key
        partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return key

    def get(self, key: str) -> bytes:
        """Return the object with a key.

        Raises:
            FileNotFoundError: it was deleted.
        """
        return self.path(key).read_bytes()

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / key

    def collect(self, referenced: Collection[str]) -> list[str]:
        """Delete other objects and remains of interrupted writes; return their keys."""
        deleted = []
        for path in self.folder.iterdir():
            if path.name not in referenced and self.now() - path.stat().st_mtime > GRACE_S:
                path.unlink(missing_ok=True)
                deleted.append(path.name)
        return deleted
