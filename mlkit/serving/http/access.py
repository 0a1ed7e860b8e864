"""Who may call: a bearer token, or a cookie that a one-time code was exchanged for.

The token is never shown. A link to the documentation carries a code that works once, for a minute:
an HMAC of its time and a nonce under the token (RFC 2104), so that it needs no state but the codes
that were used.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlkit.serving.http.problem import answer

__all__ = ["Access", "new_code", "new_token"]

CODE_LIFE_S = 60
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
OPEN_PREFIX = "/swagger/"


def new_token() -> str:
    """A token nobody can guess."""
    return secrets.token_urlsafe(32)


def new_code(token: str, now: Callable[[], float] = time.time) -> str:
    """A code that opens the documentation once, within a minute."""
    plain = f"{int(now())}.{secrets.token_hex(8)}"
    return f"{plain}.{_sign(token, plain)}"


def _sign(token: str, text: str) -> str:
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


class Access:
    """ASGI middleware: lets through what may pass and answers 401 to the rest.

    Args:
        token: None lets everybody in who names a loopback host (so that no web page can reach the
            app by a name that resolves here).
    """

    def __init__(
        self, app: ASGIApp, token: str | None, name: str, now: Callable[[], float] = time.time
    ) -> None:
        self.app = app
        self.token = token
        self.cookie = f"mlkit-{name}"
        self.now = now
        self._used: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] not in ("http", "websocket") or self._allowed(scope):
            await self.app(scope, receive, send)
            return
        await self._refusal(scope)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return True
        headers = dict(scope["headers"])
        if self.token is None:
            return _is_loopback(headers.get(b"host", b"").decode("latin-1"))
        token = self.token.encode()
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, b"Bearer " + token):
            return True
        # For applications that read the other header themselves.
        if hmac.compare_digest(headers.get(b"x-mlkit-token", b""), token):
            return True
        return self._has_cookie(headers.get(b"cookie", b"").decode("latin-1"))

    def _has_cookie(self, header: str) -> bool:
        if not header or self.token is None:
            return False
        morsel = SimpleCookie(header).get(self.cookie)
        return morsel is not None and _same(morsel.value, _sign(self.token, "docs"))

    def _refusal(self, scope: Scope) -> Response:
        if self.token is None:
            return answer(
                403, "without a token this app is called by a loopback name, such as 127.0.0.1"
            )
        query = parse_qs(scope["query_string"].decode("latin-1"))
        code = query.pop("code", [""])[0]
        if code and self._redeem(code):
            rest = urlencode(query, doseq=True)
            seen = scope.get("mlkit.path", scope["path"])
            response = RedirectResponse(seen + ("?" + rest if rest else ""), 303)
            response.set_cookie(
                self.cookie, _sign(self.token, "docs"), httponly=True, samesite="lax", path="/"
            )
            return response
        detail = "this code was used or is too old" if code else "a bearer token is needed"
        return answer(401, detail, headers={"WWW-Authenticate": "Bearer"})

    def _redeem(self, code: str) -> bool:
        assert self.token is not None
        now = self.now()
        self._used = {c: t for c, t in self._used.items() if now - t < 2 * CODE_LIFE_S}
        plain, _, signature = code.rpartition(".")
        issued = plain.partition(".")[0]
        good = _same(signature, _sign(self.token, plain)) and issued.isdecimal()
        if not good or code in self._used or not -5 <= now - int(issued) <= CODE_LIFE_S:
            return False
        self._used[code] = now
        return True


def _same(given: str, expected: str) -> bool:
    """Compares in constant time; text from outside may hold any character."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.lower() in ("127.0.0.1", "localhost", "[::1]")
