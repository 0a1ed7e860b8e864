"""Observation of a deployed app: status, logs, failures, metrics and traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlkit.autoscale import Scaling
from mlkit.errors import SessionError, SessionTimeout, entry_point
from mlkit.execute.cores import cores
from mlkit.metrics import History, Trace
from mlkit.metrics.peek import Peek
from mlkit.metrics.pools import Pools
from mlkit.plan.machine import machine_resources
from mlkit.serving.control.audit import read_audit
from mlkit.serving.control.protocol import GetHealth, GetPlacement
from mlkit.serving.kernel.attached import Attached
from mlkit.serving.kernel.checkup import Facts, about_app, sizes_of
from mlkit.serving.kernel.doctor import Findings, about_machine
from mlkit.serving.kernel.reproduce import FailedRequest, Reproduction
from mlkit.serving.kernel.status import AppStatus, Logs, Placement
from mlkit.serving.kernel.telemetry import Slowest
from mlkit.serving.replica.output import read_failures, read_logs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Observing"]


class Observing(Attached):
    """Reads what replicas and the session report."""

    @entry_point
    def status(self) -> AppStatus:
        """Return the current status."""
        if self.closed:
            return AppStatus("NOT_RUNNING", {}, "the app was shut down", {})
        try:
            health = self.session.call(GetHealth(app=self.name), timeout_s=10)
        except SessionTimeout:
            raise
        except SessionError:
            return AppStatus("NOT_RUNNING", {}, "the session has ended", {})
        return AppStatus.of(health)

    @entry_point
    def audit(self) -> pd.DataFrame:
        """Return the audit log of the app, oldest first: time, action, author and outcome.

        Deployments, scaling, swaps, updates, rollbacks, and tokens that were created or revoked.
        The log has no values of configuration and no tokens. It is a file of the session, about as
        long as the last 5,000 changes of all of its apps, and ends with the session.
        """
        import pandas as pd

        entries = [entry for entry in read_audit(self.session.folder) if entry["app"] == self.name]
        columns = ["time", "action", "by", "detail", "outcome"]
        frame = pd.DataFrame(entries, columns=columns)
        frame["time"] = [datetime.fromtimestamp(time).astimezone() for time in frame["time"]]
        return frame

    @entry_point
    def doctor(self) -> Findings:
        """Return likely problems of the app and its machine, with fixes.

        Large values that code captures, batches that can never fill, more resources or threads than
        there are, and a machine that is short of memory, disk or files. ``mlkit doctor`` checks the
        installation.
        """
        is_local = self.session.about().address == "local"
        total = machine_resources() if is_local else _sum_of(self.placement().nodes)
        facts = Facts(
            plan=self.plan,
            limits=self.limits,
            captured=sizes_of(self.graph),
            total=total,
            cores=cores() if is_local else 0,
            workers=self._record.spec.workers,
        )
        return Findings([*about_app(facts), *(about_machine() if is_local else ())])

    @entry_point
    def placement(self) -> Placement:
        """Return the current placement of replicas, and the allocated resources."""
        return Placement(self.plan, **self.session.call(GetPlacement(app=self.name), timeout_s=10))

    @entry_point
    def logs(
        self, step: str | None = None, *, request: str | None = None, last: int | None = None
    ) -> Logs:
        """Return the output and logs of its replicas, oldest first.

        Args:
            step: return only the output of this step.
            request: return only that of this request, by its ``X-Request-Id``; a batched step
                writes for many, and is left out.
            last: maximum of lines.

        Raises:
            DeployError: there is no such step.
        """
        if step is not None:
            self._check_step(step)
        lines = read_logs(self._logs_folder, self.name)
        lines = [
            line for line in lines if step in (None, line.step) and request in (None, line.request)
        ]
        return Logs(lines if last is None else lines[-last:])

    @property
    def failures(self) -> list[FailedRequest]:
        """The last failures of its steps with their tracebacks, oldest first.

        ``app.failures[-1].reproduce()`` runs the step again in this process, for ``%debug``.
        """
        failures = read_failures(self._logs_folder, self.name)[-100:]
        return [self._reproduction.failed(failure) for failure in failures]

    @property
    def _reproduction(self) -> Reproduction:
        return Reproduction(self._logs_folder, self.plan, self._revisions.replaced)

    @property
    @entry_point
    def metrics(self) -> History:
        """Metrics of all replicas; after a shutdown, those read before."""
        return self._observed.history(read=not self.closed)

    @property
    @entry_point
    def scaling(self) -> Scaling:
        """Scaling decisions and their reasons; after a shutdown, those read before."""
        return self._observed.scaling(read=not self.closed)

    @property
    @entry_point
    def pools(self) -> Pools:
        """Pools of models in its replicas: which models are in memory where, and hit rates."""
        return self._observed.pools(read=not self.closed)

    @entry_point
    def slowest(self, count: int = 10) -> Slowest:
        """Return the slowest requests of the last 15 minutes; at low rates, of the last 5,000.

        ``app.slowest()[0].reproduce()`` runs the pipeline again in this process.
        """
        return Slowest(map(self._reproduction.slow, self._observed.slowest(count)))

    @entry_point
    def peek(self, step: str, last: int = 5, *, timeout_s: float = 3.0) -> Peek:
        """Return samples of a step's inputs and outputs, with images.

        From the first call until 30 s after the last, each replica samples a request every half
        second.

        Args:
            step: name of the step.
            last: maximum of samples, up to 20.
            timeout_s: how long to wait for the first sample.

        Raises:
            DeployError: there is no such step.
        """
        self._check_step(step)
        return self._observed.peek(step, last, timeout_s)

    @entry_point
    def trace(self, id: str) -> Trace:
        """Return the trace of a request: ``app.trace(id).plot()``.

        Args:
            id: ``X-Request-Id`` of the response, or an id that `slowest` shows.

        Raises:
            InputError: it is not among the last 5,000, or less than a second old.
        """
        return self._observed.trace(id)


def _sum_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum the resources of nodes."""
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node["resources"])
    return dict(total)
