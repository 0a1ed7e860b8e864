"""A folder on disk for what takes long to build: compiled models, keyed by their content."""

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
    """Return the folder for files that may be deleted at any time; it need not exist yet.

    ``MLKIT_CACHE_DIR`` where that is set, else the user's cache folder as the platform has it.
    """
    given = os.environ.get("MLKIT_CACHE_DIR")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("mlkit", appauthor=False)


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """Return 32 hex digits that change when any part does; of a `Path`, its file's contents count.

    Raises:
        FileNotFoundError: a path leads nowhere.
    """
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        digest = hashlib.sha256(data.encode() if isinstance(data, str) else data)
        # Digests have one length, so that ("ab", "c") and ("a", "bc") differ.
        total.update(digest.digest())
    return total.hexdigest()[:32]


def entry(key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of ``key`` in the cache, built first if it is not there.

    Any number of threads and processes may ask for the same key at once. Each that finds nothing
    builds in a folder of its own, which appears under its name complete or not at all; the first
    one stays.

    Args:
        key: as `content_key` returns it.
        build: writes the files into the empty folder that it is given.

    Raises:
        OSError: the cache cannot be written.
    """
    final = cache_dir() / key
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=final.parent))
    try:
        build(fresh)
        with suppress(OSError):  # Somebody else was first.
            fresh.rename(final)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return final


def discard(folder: Path) -> None:
    """Remove an entry. Who has its files open keeps them."""
    doomed = folder.with_name(f".{folder.name[:8]}-{os.getpid()}-{os.urandom(4).hex()}")
    with suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
