"""The kernel's view of a deployed app, and the connection to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import DeployError
from mlkit.pipelines import Pipeline
from mlkit.plan import Plan
from mlkit.serving.control.folders import LOGS
from mlkit.serving.control.records import AppRecord
from mlkit.serving.kernel.cells import Definition
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.revisions import Revisions
from mlkit.serving.kernel.sender import Sender, shut_down
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.telemetry import Observed
from mlkit.serving.kernel.tokens import Tokens
from mlkit.serving.limits import Limits

__all__ = ["Attached"]


class Attached:
    """An app as this kernel knows it: its record, plan, client and measurements."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        record: AppRecord,
        pipeline: Pipeline[..., Any] | None = None,
    ) -> None:
        self.session = session
        self.name = record.app
        self.url = record.url
        self.token = record.spec.token
        self._base = record.base
        self._since = record.since
        self._definition = Definition(record.app, pipeline)
        self._revisions = Revisions(session, plan, record)
        self.tokens = Tokens(self._revisions)
        self._header = self._write_header()
        self._observed = Observed(session, self.name)
        self._logs_folder = session.folder / LOGS
        self._connect()

    def _connect(self) -> None:
        """Take over the graph of the plan, with a client for its types."""
        spec = self._record.spec
        self.graph = self.plan.graph
        self._codec = Codec(self.graph, spec.exact_key)
        timeout_s = spec.limits.request_timeout_s
        self._sender = Sender(
            self._codec, timeout_s, self._logs_folder, self._observed.record_duration
        )

    @property
    def plan(self) -> Plan:
        """Its division into stages."""
        return self._revisions.plan

    @property
    def _record(self) -> AppRecord:
        return self._revisions.record

    @property
    def limits(self) -> Limits:
        """Limits of each replica."""
        return self._record.spec.limits

    @property
    def batch_sizes(self) -> Mapping[str, int]:
        """Maximum batch size by step, where it differs from the step's own."""
        return self._record.spec.batch_sizes

    @property
    def closed(self) -> bool:
        """Whether it was shut down through this object."""
        return self._sender.closed

    def _check_open(self) -> None:
        if self.closed:
            raise shut_down(DeployError, self.name)

    def _check_step(self, step: str) -> None:
        if step not in self.graph:
            raise DeployError(
                f"there is no step {step!r}",
                where=f"app {self.name!r}",
                expected=f"one of {', '.join(node.name for node in self.graph)}",
            )

    def _write_header(self) -> Path:
        """Write the token for `curl` to a file that only this user can read."""
        path = self.session.folder / f"{self.name}.header"
        if self.token is not None:
            path.touch(mode=0o600)
            path.write_text(f"Authorization: Bearer {self.token}\n")
        return path
