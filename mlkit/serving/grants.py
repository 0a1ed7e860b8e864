"""Scopes and rates of the named tokens of an app: plain data and pure functions.

A token is not kept: a grant has its SHA-256, which cannot be reversed. Requests are counted by a
token bucket, whose state after a request is a function of the state before and a clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlkit.errors import DefinitionError, DeployError, did_you_mean

__all__ = [
    "OWNER",
    "SCOPES",
    "Allowance",
    "Grant",
    "after_request",
    "digest_of",
    "parse_rate",
    "share",
    "with_grant",
    "without_grant",
]

SCOPES = ("call", "observe", "control")
"""Scopes of tokens: calling pipelines and routes, reading about the app, and routes that declare
that they need it (`mlkit.serving.requires`)."""

OWNER = "owner"
"""Name of the app's own token, which has every scope and no limit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RATE = re.compile(r"(?P<count>\d+(?:\.\d+)?)\s*/\s*(?P<unit>s|min|h)")
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
_ROUNDING = 1e-9
"""What an allowance may lack of a request: sums of floats are not exact."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """The permissions of a named token.

    Attributes:
        name: its name.
        digest: SHA-256 of the token, in hexadecimal digits.
        scopes: of `SCOPES`.
        rate: requests per second on average; None for no limit.
        burst: requests at once.
        created: when it was created, in seconds since the epoch.

    Raises:
        DefinitionError: a value is invalid.
    """

    name: str
    digest: str
    scopes: tuple[str, ...] = ("call",)
    rate: float | None = None
    burst: float = 1.0
    created: float = 0.0

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == OWNER:
            raise DefinitionError(
                "invalid name of a token",
                expected=f"up to 64 letters, digits, '.', '_' and '-', and not {OWNER!r}",
                got=f"{self.name!r:.80}",
            )
        scopes: Any = self.scopes
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes or isinstance(scopes, str):
            raise DefinitionError(
                f"unknown scope {unknown[0]!r:.40}" if unknown else "a token needs a scope",
                where=f"token {self.name!r}",
                expected=f"some of {', '.join(SCOPES)}",
                fix=did_you_mean(str(unknown[0]), SCOPES) if unknown else None,
            )


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests that a token may still make, at a time: a token bucket.

    Attributes:
        left: requests.
        at: the time in seconds.
    """

    left: float
    at: float


def after_request(
    before: Allowance | None, now: float, *, rate: float, burst: float
) -> tuple[Allowance, float]:
    """Return the allowance after a request, and the wait until one would be admitted, in seconds.

    Args:
        before: the allowance before it; None before the first request.
        now: the time in seconds; one before that of the last request counts as that.
        rate: requests per second that it grows by.
        burst: requests that it grows to.

    Returns:
        the allowance, and 0 if the request is admitted.
    """
    if before is None:
        before = Allowance(burst, now)
    now = max(now, before.at)
    left = min(burst, before.left + (now - before.at) * rate)
    if left >= 1 - _ROUNDING:
        return Allowance(max(0.0, left - 1), now), 0.0
    return Allowance(left, now), (1 - left) / rate


def digest_of(token: bytes) -> str:
    """Return the stored form of a token: its SHA-256; 256 random bits need no salt."""
    return hashlib.sha256(token).hexdigest()


def parse_rate(rate: str | float | None) -> float | None:
    """Return requests per second, from a number or text such as "50/s", "600/min" or "100/h".

    Raises:
        DefinitionError: it has another form, or is not positive.
    """
    if rate is None:
        return None
    per_s = 0.0
    if isinstance(rate, str):
        if match := _RATE.fullmatch(rate.strip()):
            per_s = float(match["count"]) / _UNITS_S[match["unit"]]
    elif type(rate) in (int, float):
        per_s = float(rate)
    if not 0 < per_s < float("inf"):
        raise DefinitionError(
            "invalid rate", expected='"50/s", "600/min" or "100/h"', got=f"{rate!r:.40}"
        )
    return per_s


def share(grants: Iterable[Grant], replicas: int) -> tuple[Grant, ...]:
    """Return the grants of one replica of several, among which requests are distributed evenly.

    Each has its share of a rate, so that all together do not exceed it.
    """
    return tuple(
        grant
        if grant.rate is None
        else replace(grant, rate=grant.rate / replicas, burst=max(1.0, grant.burst / replicas))
        for grant in grants
    )


def with_grant(grants: Sequence[Grant], new: Grant, app: str) -> tuple[Grant, ...]:
    """Return the grants with another one.

    Raises:
        DeployError: there is one of that name.
    """
    if any(grant.name == new.name for grant in grants):
        raise DeployError(
            f"there is a token {new.name!r} already",
            where=f"app {app!r}",
            fix=f"take another name, or app.tokens.revoke({new.name!r}) first",
        )
    return (*grants, new)


def without_grant(grants: Sequence[Grant], name: str, app: str) -> tuple[Grant, ...]:
    """Return the grants without the one of a name.

    Raises:
        DeployError: there is no such token.
    """
    names = [grant.name for grant in grants]
    if name not in names:
        is_owner = "deploy again with another token= to replace the owner's"
        raise DeployError(
            f"there is no token {name!r:.80}",
            where=f"app {app!r}",
            expected=f"one of {', '.join(names)}" if names else None,
            fix=is_owner if name == OWNER else did_you_mean(str(name), names),
        )
    return tuple(grant for grant in grants if grant.name != name)
