"""Holders of named tokens, in a replica: identifies the client of a request, and authorizes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import ceil

from fastapi import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from mlkit.errors import DefinitionError, entry_point
from mlkit.serving.grants import SCOPES, Allowance, Grant, after_request, digest_of
from mlkit.serving.http.problem import answer

__all__ = ["HOLDER_KEY", "Holders", "requires"]

HOLDER_KEY = "mlkit.grant"
"""Entry of a request's scope: the grant of its named token. The owner's requests have none."""


class Holders:
    """The named tokens of an app; they can change while it serves.

    Args:
        now: clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._grants: dict[str, Grant] = {}
        self._allowances: dict[str, Allowance] = {}

    def replace(self, grants: Iterable[Grant]) -> None:
        """Have these be all; what those that stay have used up counts on."""
        self._grants = {grant.digest: grant for grant in grants}
        known = self._allowances.items()
        self._allowances = {digest: left for digest, left in known if digest in self._grants}

    def of(self, token: bytes) -> Grant | None:
        """Return the grant of a token; None if it is unknown or was revoked."""
        # Found by its digest: how long that takes says nothing about the tokens.
        return self._grants.get(digest_of(token)) if self._grants else None

    def refusal(self, grant: Grant, needed: str) -> Response | None:
        """Count a request; return the response if it is refused, None if it is admitted.

        Args:
            grant: of its token.
            needed: the scope that it needs.
        """
        if needed not in grant.scopes:
            return answer(403, _lacks(grant, needed), headers=_insufficient(needed))
        if grant.rate is None:
            return None
        self._allowances[grant.digest], wait_s = after_request(
            self._allowances.get(grant.digest), self._now(), rate=grant.rate, burst=grant.burst
        )
        if not wait_s:
            return None
        detail = f"too many requests with the token {grant.name!r}"
        return answer(429, detail, headers={"Retry-After": f"{ceil(wait_s)}"})


@entry_point
def requires(scope: str) -> Callable[[HTTPConnection], None]:
    """Return a dependency for routes of your own that need a scope, such as "control".

    ::

        @shop.post("/reindex", dependencies=[Depends(requires("control"))])
        async def reindex() -> None: ...

    The owner's token has every scope; requests with a named token that lacks it are answered 403.

    Args:
        scope: "call", "observe" or "control".

    Raises:
        DefinitionError: there is no such scope.
    """
    if scope not in SCOPES:
        raise DefinitionError(
            "unknown scope", where="requires(...)", expected=" or ".join(SCOPES), got=f"{scope!r}"
        )

    def check(request: HTTPConnection) -> None:
        _check(request.scope, scope)

    return check


def _check(scope: Scope, needed: str) -> None:
    grant: Grant | None = scope.get(HOLDER_KEY)
    if grant is not None and needed not in grant.scopes:
        raise HTTPException(403, _lacks(grant, needed), _insufficient(needed))


def _lacks(grant: Grant, needed: str) -> str:
    return f"the token {grant.name!r} lacks the scope {needed!r}"


def _insufficient(needed: str) -> dict[str, str]:
    """The challenge of RFC 6750, section 3.1."""
    return {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'}
