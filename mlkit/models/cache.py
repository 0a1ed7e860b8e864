"""A disk cache for compiled models, keyed by their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_dir", "content_key", "discard", "entry"]


def cache_dir() -> Path:
    """Return the cache directory, which may not exist yet; its files may be deleted at any time.

    It is ``MLKIT_CACHE_DIR`` if set, else the platform's cache directory of the user.
    """
    configured = os.environ.get("MLKIT_CACHE_DIR")
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("mlkit", appauthor=False)


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """Return a digest of some parts as 32 hex digits; a `Path` contributes its file's contents.

    Raises:
        FileNotFoundError: a file does not exist.
    """
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        digest = hashlib.sha256(data.encode() if isinstance(data, str) else data)
        # Hashing fixed-length digests keeps ("ab", "c") and ("a", "bc") apart.
        total.update(digest.digest())
    return total.hexdigest()[:32]


def entry(key: str, build: Callable[[Path], None]) -> Path:
    """Return the cached folder of a key; build it first if it is missing.

    Safe for concurrent threads and processes: each builds in a temporary folder, which is renamed
    atomically. If several build the same entry, the first one is kept.

    Args:
        key: see `content_key`.
        build: writes the entry's files into an empty folder.

    Raises:
        OSError: the cache is not writable.
    """
    final = cache_dir() / key
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=final.parent))
    try:
        build(fresh)
        with suppress(OSError):  # another process was first
            fresh.rename(final)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return final


def discard(folder: Path) -> None:
    """Remove an entry. Processes with open files are unaffected."""
    doomed = folder.with_name(f".{folder.name[:8]}-{os.getpid()}-{os.urandom(4).hex()}")
    with suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
