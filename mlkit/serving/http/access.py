"""Who may call: a bearer token, or, for the documentation, a cookie.

The token is never shown. A link to the documentation carries a code that works once, for a minute;
the cookie that it is exchanged for opens the documentation and nothing else. Both are signed with
the token (HMAC, RFC 2104) for one app and one purpose, and carry the time when they expire.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode

from starlette.applications import Starlette
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.serving.http.problem import answer

__all__ = ["Access", "RedeemedCodes", "new_code", "new_token"]

CODE_LIFE_S = 60
COOKIE_LIFE_S = 8 * 3600
# Of mlkit's own routes, those that answer everybody, and those that answer to the cookie.
PUBLIC = frozenset({"/healthz", "/readyz", "/swagger/{file}"})
DOCUMENTATION = frozenset({"/docs", "/openapi.json"})


def new_token() -> str:
    """A token nobody can guess."""
    return secrets.token_urlsafe(32)


def new_code(token: str, app: str, now: Callable[[], float] = time.time) -> str:
    """A code that opens the documentation of an app once, within a minute."""
    return _signed(token, f"code {app}", now() + CODE_LIFE_S)


def _signed(token: str, purpose: str, expires: float) -> str:
    plain = f"{int(expires)}.{secrets.token_hex(8)}"
    return f"{plain}.{_signature(token, purpose, plain)}"


def _signature(token: str, purpose: str, plain: str) -> str:
    return hmac.new(token.encode(), f"{purpose} {plain}".encode(), hashlib.sha256).hexdigest()[:32]


def _expiry(signed: str) -> int:
    """When a signed text expires, in seconds since the epoch."""
    return int(signed.partition(".")[0])


class RedeemedCodes:
    """The codes that were used: a file for each in a folder that the replicas of an app share.

    Without a folder they are kept in memory, and a code is good for one use per process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: set[str] = set()

    def add(self, code: str, now: float) -> bool:
        """Mark a valid code as used, and forget long expired ones; False if it was used already."""
        oldest = now - CODE_LIFE_S
        if self._folder is None:
            self._memory = {used for used in self._memory if _expiry(used) > oldest}
            new = code not in self._memory
            self._memory.add(code)
            return new
        for marker in self._folder.glob("[0-9]*.*.*"):
            if _expiry(marker.name) < oldest:
                marker.unlink(missing_ok=True)
        try:
            (self._folder / code).touch(0o600, exist_ok=False)  # one of several replicas succeeds
        except FileExistsError:
            return False
        return True


class Access:
    """ASGI middleware: lets through what may pass and answers 401 or 403 to the rest.

    Some of mlkit's own routes are open to everybody, or to the cookie: where the route that matches
    is one of them, whatever the path. They answer from an application of their own, without the
    user's middleware.

    Args:
        app: what answers those who may call.
        own: the application of mlkit's own routes.
        routes: those of ``app``, with those of ``own`` among them; the first that matches answers.
        token: None lets everybody in who names a loopback host, from pages of one (so that no
            web page can reach the app by a name that resolves here, or by a form).
        name: of the app that codes and cookies are for.
        codes: where used codes are kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        own: Starlette,
        routes: Sequence[BaseRoute],
        token: str | None,
        name: str,
        codes: RedeemedCodes,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.own = own
        self.routes = routes
        self.token = token
        self.name = name
        self.cookie = f"mlkit-{quote(name)}"
        self.codes = codes
        self.now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] not in ("http", "websocket") or self._may_call(scope):
            await self.app(scope, receive, send)
            return
        path = self._own_path(scope)
        if path in PUBLIC or (path in DOCUMENTATION and self._has_cookie(scope)):
            await self.own(scope, receive, send)
        else:
            await self._refusal(scope, path)(scope, receive, send)

    def _may_call(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        if self.token is None:
            origin = headers.get(b"origin")
            return _is_loopback(headers.get(b"host", b"")) and (
                origin is None or _is_loopback(origin.partition(b"://")[2])
            )
        token = self.token.encode()
        if hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + token):
            return True
        # For applications that read the other header themselves.
        return hmac.compare_digest(headers.get(b"x-mlkit-token", b""), token)

    def _own_path(self, scope: Scope) -> str:
        """The path of the route that matches, as it is declared; "" if it is none of mlkit's."""
        scope = dict(scope)  # FastAPI writes into it while it looks for a match
        for route in self.routes:
            if route.matches(scope)[0] is Match.FULL:
                return route.path if isinstance(route, Route) and route in self.own.routes else ""
        return ""

    def _has_cookie(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
        return self._is_valid(f"cookie {self.name}", cookie_parser(header).get(self.cookie, ""))

    def _is_valid(self, purpose: str, signed: str) -> bool:
        if self.token is None:
            return False
        plain, _, signature = signed.rpartition(".")
        expected = _signature(self.token, purpose, plain)
        # As bytes: text from outside may hold any character.
        same = hmac.compare_digest(signature.encode(), expected.encode())
        return same and self.now() <= _expiry(plain)

    def _refusal(self, scope: Scope, path: str) -> Response:
        if self.token is None:
            words = "without a token this app is called by a loopback name, such as 127.0.0.1"
            return answer(403, f"{words}, and from pages of one")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        code = query.pop("code", [""])[0] if path in DOCUMENTATION else ""
        if self._is_valid(f"code {self.name}", code) and self.codes.add(code, self.now()):
            rest = urlencode(query, doseq=True)
            seen = scope.get("mlkit.path", scope["path"])
            response = RedirectResponse(seen + ("?" + rest if rest else ""), 303)
            cookie = _signed(self.token, f"cookie {self.name}", self.now() + COOKIE_LIFE_S)
            response.set_cookie(
                self.cookie, cookie, max_age=COOKIE_LIFE_S, httponly=True, samesite="lax", path="/"
            )
            return response
        detail = "this code was used or is too old" if code else "a bearer token is needed"
        return answer(401, detail, headers={"WWW-Authenticate": "Bearer"})


def _is_loopback(authority: bytes) -> bool:
    host = authority.lower()
    name = host.rpartition(b":")[0] if not host.endswith(b"]") and b":" in host else host
    return name in (b"127.0.0.1", b"localhost", b"[::1]")
