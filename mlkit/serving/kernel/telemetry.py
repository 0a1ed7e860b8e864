"""Metrics, scaling decisions, traces and samples of an app, read from its session."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlkit.autoscale import Scaling
from mlkit.errors import InputError
from mlkit.metrics import History, Rolling, Trace
from mlkit.metrics.peek import Peek
from mlkit.metrics.pools import Pools
from mlkit.serving.control.protocol import GetMetrics, GetTraces, PeekInto

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.serving.kernel.session import Session

__all__ = ["Observed", "Slowest"]

MAX_DURATIONS = 2_000
PEEK_FOR_S = 30.0


class Slowest(list[Trace]):
    """Traces of requests, the slowest first; displayed as a table."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each: time, status, and duration by phase in ms."""
        import pandas as pd

        rows = [
            {
                "id": trace.id,
                "time": pd.Timestamp(trace.at, unit="s", tz="UTC"),
                "status": trace.status,
                "version": trace.version,
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
    """Reads incrementally; thread-safe."""

    def __init__(self, session: Session, app: str) -> None:
        self.session = session
        self.app = app
        self._history = History()
        self.rolling = Rolling()
        self._scaling = Scaling(self._history)
        self._last = 0
        self._last_decision = 0
        self._durations_s: dict[str, float] = {}
        self.gone = False  # whether the last call of the session failed
        self.lock = threading.RLock()  # also held by views while they show the data

    def history(self, *, read: bool = True) -> History:
        """Return the metrics; with ``read=False``, those read before."""
        if read:
            self.read()
        return self._history

    def scaling(self, *, read: bool = True) -> Scaling:
        """Return the scaling log; with ``read=False``, the part that was read before."""
        if read:
            self.read()
        return self._scaling

    def pools(self, *, read: bool = True) -> Pools:
        """Return the pools of models; with ``read=False``, as they were read before."""
        if read:
            self.read()
        with self.lock:
            return Pools.of(self.app, self.rolling.latest())

    def read(self) -> None:
        """Read new data.

        Raises:
            SessionError: the session has ended.
        """
        with self.lock:
            self.gone = True
            call = GetMetrics(app=self.app, since=self._last, scaling=self._last_decision)
            self._last, deltas, scaling = self.session.call(call, timeout_s=10)
            self.gone = False
            self._last_decision = scaling["last"]
            self._history.add(deltas)
            self.rolling.add(deltas)
            self._scaling.add(scaling)

    def peek(self, step: str, last: int, timeout_s: float) -> Peek:
        """Return the last samples of a step; waits for the first one."""
        until = time.monotonic() + timeout_s
        while True:
            call = PeekInto(app=self.app, step=step, for_s=PEEK_FOR_S)
            samples = self.session.call(call, timeout_s=10)
            if samples or time.monotonic() > until:
                return Peek(step, tuple(samples[:last]))
            time.sleep(0.2)

    def record_duration(self, id: str, seconds: float) -> None:
        """Record the duration of a request as seen by the client."""
        if id:
            self._durations_s[id] = seconds
            if len(self._durations_s) > MAX_DURATIONS:
                self._durations_s.pop(next(iter(self._durations_s)), None)

    def _unpack(self, packed: Any) -> Trace:
        """Decode a trace, and add the time outside the server if this kernel was the client."""
        trace = Trace.unpack(packed)
        seconds = self._durations_s.get(trace.id)
        if seconds is None:
            return trace
        return replace(trace, outside_s=max(0.0, seconds - trace.total_s))

    def slowest(self, count: int) -> Slowest:
        """Return the slowest requests; `InputError` if ``count`` is less than 1."""
        if count < 1:
            raise InputError("invalid count", expected="at least 1", got=repr(count))
        packed = self.session.call(GetTraces(app=self.app, slowest=count), timeout_s=10)
        return Slowest(map(self._unpack, packed))

    def trace(self, id: str) -> Trace:
        """Return the trace of a request; `InputError` if it is no longer kept."""
        packed = self.session.call(GetTraces(app=self.app, id=id), timeout_s=10)
        if not packed:
            raise InputError(
                f"no request {id!r} among the last",
                where=f"app {self.app!r}",
                expected="the X-Request-Id of a response that is at least a second old",
                fix="see the ids in app.slowest(10)",
            )
        return self._unpack(packed[-1])
