"""Authentication: bearer tokens for requests, cookies for pages in a browser.

The owner's token grants everything. A named one grants what its scopes say, at most at its rate;
see `mlkit.serving.grants`.

A page in a browser cannot set headers of a websocket. It offers the token as a subprotocol, after
``bearer``, which is what the connection is accepted with.

A link to such a page, the documentation or the playground, contains a one-time code, valid for a
minute, which is exchanged for the page's cookie. Both are signed with the owner's token (HMAC,
RFC 2104) for one app, page and purpose, and contain their expiry; neither reveals the token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlkit.serving.grants import Grant
from mlkit.serving.http.holders import HOLDER_KEY, Holders
from mlkit.serving.http.problem import answer

__all__ = ["Access", "RedeemedCodes", "new_code", "new_token"]

CODE_LIFE_S = 60
COOKIE_LIFE_S = 8 * 3600
# mlkit's own routes without authentication, and those that also accept the cookie.
PUBLIC = frozenset(
    {"/healthz", "/readyz", "/swagger/{file}", "/v2/health/live", "/v2/health/ready"}
)
DOCUMENTATION = frozenset({"/docs", "/openapi.json"})
PAGES = {"docs": DOCUMENTATION, "try": DOCUMENTATION | {"/try"}}
"""Routes that accept the cookie of a page, by page."""
JOBS = frozenset({"/jobs", "/jobs/{id}", "/jobs/{id}/results"})
"""Routes of inputs and results; they are called, not observed."""
SUBPROTOCOL = "bearer"


def new_token() -> str:
    """Generate a bearer token."""
    return secrets.token_urlsafe(32)


def new_code(token: str, app: str, now: Callable[[], float] = time.time, page: str = "docs") -> str:
    """Generate a one-time code for a page of an app, valid for a minute.

    Args:
        token: the app's token.
        app: name of the app.
        now: clock in seconds.
        page: "docs", or "try", which can also send requests.
    """
    return _signed(token, f"{page} code {app}", now() + CODE_LIFE_S)


def _signed(token: str, purpose: str, expires: float) -> str:
    payload = f"{int(expires)}.{secrets.token_hex(8)}"
    return f"{payload}.{_signature(token, purpose, payload)}"


def _signature(token: str, purpose: str, payload: str) -> str:
    message = f"{purpose} {payload}".encode()
    return hmac.new(token.encode(), message, hashlib.sha256).hexdigest()[:32]


def _expiry(signed: str) -> int:
    return int(signed.partition(".")[0])


class RedeemedCodes:
    """Codes that were already used, as files in a folder shared by the replicas of an app.

    Without a folder they are kept in memory, so a code works once per process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: set[str] = set()

    def add(self, code: str, now: float) -> bool:
        """Mark a valid code as used, and drop expired ones; False if it was already used."""
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
            (self._folder / code).touch(0o600, exist_ok=False)  # atomic: one replica succeeds
        except FileExistsError:
            return False
        return True


class Access:
    """ASGI middleware: authenticates requests, and responds to all others with 401, 403 or 429.

    It is around the user's middleware, except for ``CORSMiddleware``: that answers preflights,
    which have no token, and lets pages read the refusals.

    Some of mlkit's own routes are public or accept the cookie. They are recognized by the route
    that matches, not by the path, and served without the user's middleware.

    Args:
        app: the protected application.
        own: the application of mlkit's own routes.
        routes: the routes of ``app``, which include those of ``own``; the first match counts.
        token: the owner's bearer token. Without one, the Host and Origin of a request must be
            loopback names: this protects against DNS rebinding and cross-site requests.
        name: name of the app, for which codes and cookies are valid.
        codes: the codes that were already used.
        now: clock in seconds.
        origins: decide which pages of other hosts may open websockets; added to before the first
            request.
        holders: the named tokens.
        observed: further routes that need the scope "observe", in addition to those of ``own``.
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
        origins: Sequence[CORSMiddleware] = (),
        holders: Holders | None = None,
        observed: Collection[BaseRoute] = (),
    ) -> None:
        self.app = app
        self.own = own
        self.routes = routes
        self.token = token
        self.name = name
        self.cookies = {"docs": f"mlkit-{quote(name)}", "try": f"mlkit-try-{quote(name)}"}
        self.codes = codes
        self.now = now
        self.origins = origins
        self.holders = holders or Holders()
        self.observed = observed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate a request."""
        if scope["type"] not in ("http", "websocket") or self._is_authorized(scope):
            await self.app(scope, receive, send)
            return
        if (grant := self._grant(scope)) is not None:
            await self._admit(grant, scope, receive, send)
            return
        if scope["type"] == "websocket" and (offered := self._offered(scope)) is not None:
            at, grant = offered
            if self._is_of_known_page(scope):
                await self._admit(grant, _without_token(scope, at), receive, _accepting(send))
            else:
                detail = "add the page's origin to the application's CORSMiddleware"
                await answer(403, detail)(scope, receive, send)
            return
        path = self._own_path(scope)
        if path in PUBLIC or self._has_cookie(scope, path):
            await self.own(scope, receive, send)
        else:
            await self._refusal(scope, path)(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        """Whether it has the owner's token, or needs none."""
        if self.token is None:
            headers = dict(scope["headers"])
            origin = headers.get(b"origin")
            return _is_loopback(headers.get(b"host", b"")) and (
                origin is None or _is_loopback(origin.partition(b"://")[2])
            )
        return any(map(self._is_token, _tokens(scope)))

    def _grant(self, scope: Scope) -> Grant | None:
        """The grant of the named token of a request; None without a valid one."""
        if self.token is None:
            return None
        grants = map(self.holders.of, _tokens(scope))
        return next((grant for grant in grants if grant is not None), None)

    def _offered(self, scope: Scope) -> tuple[int, Grant | None] | None:
        """Where a token is among the subprotocols of a websocket, and its grant, if it is named."""
        if self.token is None:
            return None
        for at, (name, offered) in enumerate(pairwise(scope.get("subprotocols", ()))):
            if name == SUBPROTOCOL:
                token = offered.encode()
                if self._is_token(token):
                    return at + 1, None
                if (grant := self.holders.of(token)) is not None:
                    return at + 1, grant
        return None

    def _is_token(self, offered: bytes) -> bool:
        return self.token is not None and hmac.compare_digest(offered, self.token.encode())

    async def _admit(self, grant: Grant | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an authenticated request on, if its grant allows it; None is the owner's."""
        if grant is None:
            await self.app(scope, receive, send)
            return
        needed = self._needed(scope)
        refusal = self.holders.refusal(grant, needed) if needed else None
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app({**scope, HOLDER_KEY: grant}, receive, send)

    def _needed(self, scope: Scope) -> str:
        """The scope that a request needs; "" for none."""
        if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
            return "call"  # nothing that is only observed has another method
        route = self._route(scope)
        if self._is_of_jobs(route):
            return "call"
        if route is None or (route not in self.own.routes and route not in self.observed):
            return "call"
        return "" if isinstance(route, Route) and route.path in PUBLIC else "observe"

    def _is_of_jobs(self, route: BaseRoute | None) -> bool:
        return (
            isinstance(route, Route)
            and route in self.own.routes
            and route.path.removeprefix(f"/{self.name}") in JOBS
        )

    def _is_of_known_page(self, scope: Scope) -> bool:
        """Whether a websocket is opened by a page of this host, by an allowed one, or by none."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or origin.partition(b"://")[2] == headers.get(b"host"):
            return True
        return any(cors.is_allowed_origin(origin.decode("latin-1")) for cors in self.origins)

    def _own_path(self, scope: Scope) -> str:
        """The declared path of the matching route; "" if the route is not one of mlkit's."""
        route = self._route(scope)
        return route.path if isinstance(route, Route) and route in self.own.routes else ""

    def _route(self, scope: Scope) -> BaseRoute | None:
        scope = dict(scope)  # FastAPI modifies it while matching
        return next((r for r in self.routes if r.matches(scope)[0] is Match.FULL), None)

    def _has_cookie(self, scope: Scope, path: str) -> bool:
        """Whether a request has the cookie of a page with that route, and comes from this app.

        Browsers send cookies to all ports of a host: also with requests from other servers' pages.
        """
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            return False
        cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
        return any(
            path in paths
            and self._is_valid(f"{page} cookie {self.name}", cookies.get(self.cookies[page], ""))
            for page, paths in PAGES.items()
        )

    def _is_valid(self, purpose: str, signed: str) -> bool:
        if self.token is None:
            return False
        payload, _, signature = signed.rpartition(".")
        expected = _signature(self.token, purpose, payload)
        # compare_digest takes only ASCII text, but any bytes.
        authentic = hmac.compare_digest(signature.encode(), expected.encode())
        return authentic and self.now() <= _expiry(payload)

    def _refusal(self, scope: Scope, path: str) -> Response:
        if self.token is None:
            detail = "an app without a token accepts only loopback names as Host and Origin"
            return answer(403, f"{detail}, such as 127.0.0.1")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        pages = [page for page, paths in PAGES.items() if path in paths]
        code = query.pop("code", [""])[0] if pages else ""
        page = next((p for p in pages if self._is_valid(f"{p} code {self.name}", code)), None)
        if page is not None and self.codes.add(code, self.now()):
            requested = scope.get("mlkit.path", scope["path"])
            if not requested.startswith(f"{scope.get('root_path', '')}/"):  # a proxy has removed it
                requested = scope["root_path"] + requested
            url = f"{requested}?{urlencode(query, doseq=True)}".rstrip("?")
            response = RedirectResponse(url, 303)
            cookie = _signed(self.token, f"{page} cookie {self.name}", self.now() + COOKIE_LIFE_S)
            response.set_cookie(
                self.cookies[page],
                cookie,
                max_age=COOKIE_LIFE_S,
                httponly=True,
                samesite="lax",
                path="/",
            )
            return response
        detail = "the code was already used or has expired" if code else "a bearer token is needed"
        return answer(401, detail, headers={"WWW-Authenticate": "Bearer"})


def _tokens(scope: Scope) -> list[bytes]:
    """The tokens that the headers of a request have."""
    headers = dict(scope["headers"])
    kind, _, offered = headers.get(b"authorization", b"").partition(b" ")
    # For applications with an Authorization header of their own.
    other = headers.get(b"x-mlkit-token", b"")
    return [offered, other] if kind == b"Bearer" else [other]


def _without_token(scope: Scope, at: int) -> Scope:
    """The scope for the application, with the subprotocols that are its own."""
    own = [*scope["subprotocols"][: at - 1], *scope["subprotocols"][at + 1 :]]
    headers = [header for header in scope["headers"] if header[0] != b"sec-websocket-protocol"]
    if own:
        headers.append((b"sec-websocket-protocol", ", ".join(own).encode("latin-1")))
    return {**scope, "subprotocols": own, "headers": headers}


def _accepting(send: Send) -> Send:
    """Accept with the subprotocol that was offered: a browser closes the connection otherwise."""

    async def accept(message: Message) -> None:
        if message["type"] == "websocket.accept" and not message.get("subprotocol"):
            message = {**message, "subprotocol": SUBPROTOCOL}
        await send(message)

    return accept


def _is_loopback(authority: bytes) -> bool:
    host = authority.lower()
    name = host.rpartition(b":")[0] if not host.endswith(b"]") and b":" in host else host
    return name in (b"127.0.0.1", b"localhost", b"[::1]")
