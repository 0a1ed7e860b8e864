"""What was counted of an app, as its kernel reads it from the session."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlkit.autoscale import Scaling
from mlkit.errors import InputError
from mlkit.metrics import History, Rolling, Trace
from mlkit.metrics.peek import Peek
from mlkit.serving.control.protocol import GetMetrics, GetTraces, PeekInto

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.serving.kernel.session import Session

__all__ = ["Observed", "Slowest"]

MOST_TOOK = 2_000
PEEK_FOR_S = 30.0


class Slowest(list[Trace]):
    """Requests, the slowest first; shown as a table."""

    def to_frame(self) -> pd.DataFrame:
        """A row for each: when, what it was answered, and its time by phase in ms."""
        import pandas as pd

        rows = [
            {
                "id": trace.id,
                "time": pd.Timestamp(trace.at, unit="s", tz="UTC"),
                "status": trace.status,
                "total_ms": 1e3 * trace.total_s,
                **{f"{name}_ms": 1e3 * s for name, s in trace.phases_s.items()},
            }
            for trace in self
        ]
        return pd.DataFrame(rows).set_index("id") if rows else pd.DataFrame()

    def __repr__(self) -> str:
        if not self:
            return "no requests yet: try app(...)"
        return self.to_frame().to_string(float_format="{:.2f}".format)

    def _repr_html_(self) -> str:
        table: str = self.to_frame().to_html(float_format="{:.2f}".format)
        return table if self else repr(self)


class Observed:
    """Reads on where it left off; safe to use from several threads."""

    def __init__(self, session: Session, app: str) -> None:
        self.session = session
        self.app = app
        self._history = History()
        self.rolling = Rolling()
        self._scaling = Scaling(self._history)
        self._last = 0
        self._last_decided = 0
        self._took: dict[str, float] = {}
        self.gone = False  # whether the session did not answer the last time
        self.lock = threading.RLock()  # of what was read, for whoever shows it

    def history(self, *, read: bool = True) -> History:
        """What was counted, up to now; with ``read=False`` only what was read before."""
        if read:
            self.read()
        return self._history

    def scaling(self, *, read: bool = True) -> Scaling:
        """What was decided of the replicas, and how many there were, up to now."""
        if read:
            self.read()
        return self._scaling

    def read(self) -> None:
        """Read on where it was left off.

        Raises:
            SessionError: the session is gone.
        """
        with self.lock:
            self.gone = True
            reply = self.session.call(
                GetMetrics(app=self.app, since=self._last, scaling=self._last_decided),
                timeout_s=10,
            )
            self.gone = False
            self._last = reply.last
            self._last_decided = reply.scaling["last"]
            self._history.add(reply.deltas)
            self.rolling.add(reply.deltas)
            self._scaling.add(reply.scaling)

    def peek(self, step: str, last: int, timeout_s: float) -> Peek:
        """The last samples of a step; waits for the first one."""
        until = time.monotonic() + timeout_s
        while True:
            samples = self.session.call(
                PeekInto(app=self.app, step=step, for_s=PEEK_FOR_S), timeout_s=10
            )
            if samples or time.monotonic() > until:
                return Peek(step, tuple(samples[:last]))
            time.sleep(0.2)

    def took(self, id: str, seconds: float) -> None:
        """Note what a request took as its caller saw it."""
        if id:
            self._took[id] = seconds
            if len(self._took) > MOST_TOOK:
                self._took.pop(next(iter(self._took)), None)

    def _unpack(self, packed: Any) -> Trace:
        """A trace, with the time outside the server where this kernel was the caller."""
        trace = Trace.unpack(packed)
        seconds = self._took.get(trace.id)
        if seconds is None:
            return trace
        return replace(trace, outside_s=max(0.0, seconds - trace.total_s))

    def slowest(self, count: int) -> Slowest:
        """The slowest requests that are kept, the slowest first."""
        if count < 1:
            raise InputError("how many of the slowest?", expected="at least 1", got=repr(count))
        packed = self.session.call(GetTraces(app=self.app, slowest=count), timeout_s=10)
        return Slowest(map(self._unpack, packed))

    def trace(self, id: str) -> Trace:
        """The trace of a request; `InputError` where it is not kept any more."""
        packed = self.session.call(GetTraces(app=self.app, id=id), timeout_s=10)
        if not packed:
            raise InputError(
                f"there is no request {id!r} among the last",
                where=f"app {self.app!r}",
                expected="the X-Request-Id of an answer that is at least a second old",
                fix="app.slowest(10) shows some",
            )
        return self._unpack(packed[-1])
