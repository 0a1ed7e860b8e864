"""Named tokens of an app: ``app.tokens``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mlkit.errors import DeployError, entry_point
from mlkit.serving.grants import OWNER, SCOPES, Grant, digest_of, parse_rate
from mlkit.serving.http.access import new_token
from mlkit.serving.kernel.revisions import Revisions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HiddenText", "Tokens"]


class HiddenText(str):
    """Text that a cell does not display, so that it is not saved with the notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a token: keep it now, it is not shown again; print() shows it>"


class Tokens:
    """The tokens of an app, displayed as a table without the tokens themselves: they are not kept.

    ::

        secret = app.tokens.create("mobile", rate="50/s")
        app.tokens.create("grafana", scopes=["observe"])
        app.tokens.revoke("mobile")

    Changes hold for the requests that arrive at any replica from then on, without a restart. Those
    in flight are answered. Deployments, rollbacks and restarts of replicas keep the tokens.

    Args:
        revisions: changes of the app.
    """

    def __init__(self, revisions: Revisions) -> None:
        self._revisions = revisions

    @entry_point
    def create(
        self, name: str, *, scopes: Sequence[str] = ("call",), rate: str | float | None = None
    ) -> str:
        """Create a token, and return it. Only its SHA-256 is kept.

        Args:
            name: what to call it: in this table, in errors and in `App.audit`.
            scopes: "call" for pipelines and the routes of your application; "observe" for
                ``/metrics``, the documentation and descriptions of models; "control" for routes
                that declare it with `mlkit.serving.requires`.
            rate: requests of all replicas together at most, such as "50/s", "600/min" or a number
                per second; those beyond are answered 429. Those of one second may arrive at once.

        Raises:
            DeployError: there is a token of that name, the app needs none, or a replica does not
                take it.
            DefinitionError: the name, a scope or the rate is invalid.
        """
        record = self._revisions.record
        if record.spec.token is None:
            raise DeployError(
                "the app needs no token, so that a named one would restrict nothing",
                where=f"app {record.app!r}",
                fix="deploy it without token=None",
            )
        token = new_token()
        per_s = parse_rate(rate)
        grant = Grant(
            name=name,
            digest=digest_of(token.encode()),
            scopes=(scopes,) if isinstance(scopes, str) else tuple(scopes),
            rate=per_s,
            burst=max(1.0, per_s or 1.0),
            created=time.time(),
        )
        self._revisions.create_token(grant)
        return HiddenText(token)

    @entry_point
    def revoke(self, name: str) -> None:
        """Have a token be refused (401) from now on.

        Raises:
            DeployError: there is no such token, or a replica does not confirm it: the token may
                still be accepted then.
        """
        self._revisions.revoke_token(name)

    def __iter__(self) -> Iterator[str]:
        return iter([grant.name for grant in self._revisions.look().grants])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each, and one for the owner's, the app's `token`."""
        import pandas as pd

        record = self._revisions.look()
        rows = [
            {
                "name": grant.name,
                "scopes": ", ".join(grant.scopes),
                "rate_per_s": grant.rate,
                "created": datetime.fromtimestamp(grant.created).astimezone(),
            }
            for grant in record.grants
        ]
        if record.spec.token is not None:
            owner = {"name": OWNER, "scopes": ", ".join(SCOPES), "rate_per_s": None}
            rows.insert(0, {**owner, "created": None})
        columns = ["name", "scopes", "rate_per_s", "created"]
        return pd.DataFrame(rows, columns=columns, dtype=object).set_index("name")

    def __repr__(self) -> str:
        return self._shown().to_string()

    def _repr_html_(self) -> str:
        html: str = self._shown().to_html()
        return html

    def _shown(self) -> pd.DataFrame:
        frame = self.to_frame()
        frame["rate_per_s"] = ["" if r is None else f"{r:g}" for r in frame["rate_per_s"]]
        frame["created"] = ["" if at is None else f"{at:%d %b %H:%M:%S}" for at in frame["created"]]
        return frame
