"""The session that `warm_up` starts before there is anything to deploy."""

from __future__ import annotations

import threading
from contextlib import suppress

from mlkit.errors import MlkitError
from mlkit.serving.kernel.session import Progress, Session

__all__ = ["session_at", "warm_up"]

_warming: Session | None = None
"""A session that was started and may not be ready yet; guarded by the lock."""
_lock = threading.Lock()


def warm_up() -> None:
    """Start Ray and Serve in the background, for the first `deploy` of this notebook.

    Call it in the first cell: it returns at once, and has no effect if there is a session already.
    It never fails; if Ray and Serve do not start, `deploy` says why. A session that is not used
    ends as others do: with a script, or when the kernel has been gone for as long as its lease.
    """
    global _warming
    with _lock, suppress(MlkitError, OSError):
        if _pending() is None and Session.of_this_notebook() is None:
            _warming = Session.begin()


def session_at(address: str, port: int | None, say: Progress) -> Session | None:
    """Return the session that is warming up, once it is ready.

    One that is not where it is needed is ended. If the wait is interrupted, it goes on starting.

    Returns:
        None without one, or if it failed to start: the next start raises the reason.
    """
    with _lock:
        session = _pending()
    if session is None:
        return None
    if (address, port) == ("local", None):
        say("starting Ray and Serve")
        with suppress(MlkitError):
            session.wait_ready()
            return session
    session.end()
    return None


def _pending() -> Session | None:
    """The session that is warming up; a ready one is discovered like any other."""
    if _warming is None or _warming.ready or not _warming.running:
        return None
    return _warming
