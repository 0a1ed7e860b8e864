"""Why a deployment failed, in one line, from what Serve or a replica reports."""

from __future__ import annotations

import re

__all__ = ["advice", "cause_in"]

LONGEST = 300
"""Maximum length of a cause in characters."""

_FRAME = re.compile(r'^\s*File ".*", line \d+', re.MULTILINE)
_WRAPPED = re.compile(r"^(?:[\w.]+\.)?(?:DeployError|RayTaskError\(\w+\)): (?=\w+(?:Error|Exit|:))")
_MODULE = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
_KILLED = re.compile(r"ActorDiedError|ActorUnavailableError|[Tt]he actor died unexpectedly")
_MEMORY = re.compile(
    r"MemoryError|out of memory|OutOfMemory|\bOOM\b|low on memory|Unable to allocate|"
    r"Cannot allocate memory|its process was killed",
    re.IGNORECASE,
)
_IMPORT = re.compile(r"^(?:ModuleNotFoundError|ImportError)\b")
_NOTE = re.compile(r"(?<=[^\s.,:;!?])\s*\n(?=[A-Z])")
_PART = re.compile(r"(?<=[^\s.,:;!?])\s*\n\s*(?=expected |got |→ )")
_HEALTH = re.compile(r"health check", re.IGNORECASE)


def cause_in(message: str) -> str:
    """Return the exception of a traceback, or the gist of another message, as one line.

    Args:
        message: Serve's message about a deployment, or the error of a version that a replica
            could not load.
    """
    text = message.rpartition("\nError:\n")[2] or message
    if _KILLED.search(text):
        return "its process was killed while it started, which is often for lack of memory"
    frames = list(_FRAME.finditer(text))
    if frames:  # the exception follows the last frame, whose code is indented
        lines = text[frames[-1].end() :].split("\n")[1:]
        while lines and (not lines[0].strip() or lines[0].startswith("    ")):
            lines.pop(0)
        text = "\n".join(lines) or text
    line = " ".join(_PART.sub("; ", _NOTE.sub(". ", text)).split())
    line = _MODULE.sub("", _WRAPPED.sub("", line))
    if not line:
        return "no message"
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def advice(cause: str) -> str:
    """Return what to do about a cause, as the ``fix`` of an error."""
    if _MEMORY.search(cause):
        return "load a smaller model, use fewer replicas, or shut down other apps"
    if _IMPORT.search(cause):
        return "install it where the replicas run, or import a module that is there"
    if _HEALTH.search(cause):
        return "its workers are stuck or its process died: see app.logs()"
    return "correct it and run the deploy cell again; app.failures has the traceback"
