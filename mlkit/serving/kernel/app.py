"""An app: a pipeline that is served, as its caller holds it."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Literal

from mlkit.autoscale import Scaling
from mlkit.errors import (
    DeployConflict,
    DeployError,
    InputError,
    RequestError,
    SessionError,
    SessionTimeout,
)
from mlkit.execute.inputs import arguments_of, is_frame, rows, signature_of
from mlkit.execute.local import localise_arguments
from mlkit.execute.offline import frame_of
from mlkit.metrics import History, Trace
from mlkit.metrics.peek import Peek
from mlkit.plan import Plan
from mlkit.serving.control.protocol import DeleteApp, GetHealth, GetPlacement, ScaleApp
from mlkit.serving.control.records import AppRecord, Change
from mlkit.serving.http.access import new_code
from mlkit.serving.http.problem import Failure
from mlkit.serving.kernel.calls import Calls
from mlkit.serving.kernel.client import Codec, PreparedRequest
from mlkit.serving.kernel.observed import Observed, Slowest
from mlkit.serving.kernel.placement import Placement
from mlkit.serving.kernel.scale import Scaled, scaled, settings_of, with_settings
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.status import AppStatus, Logs, Snapshot
from mlkit.serving.limits import Limits
from mlkit.serving.replica.output import read_failures, read_logs

__all__ = ["App"]

ANSWER_MARGIN_S = 30.0
SCALE_ATTEMPTS = 3
"""How often a change is made anew to what somebody else has changed in the meantime."""

SENT, SENT_BYTES = 20, 2 * 2**20
"""How many requests are kept to be sent again by a load, and how large one may be."""


class App:
    """A deployed pipeline. Call it like the pipeline; what goes between is HTTP.

    Attributes:
        name: the pipeline's name.
        graph: what is served.
        plan: how it is divided into stages.
        changes: what the deployment kept, restarted or changed, stage by stage, and why.
        url: where it takes POST requests.
        token: what requests carry as ``Authorization: Bearer``; None where none is asked for.
    """

    def __init__(self, session: Session, plan: Plan, record: AppRecord) -> None:
        self.session = session
        self.graph = graph = plan.graph
        self.name = record.app
        self.url = record.url
        self.token = record.spec.token
        self._base = record.base
        self._since = record.since
        self._codec = Codec(graph)
        self._planned = plan
        self._see(record)
        self._closed = False
        self._header = self._write_header()
        self._observed = Observed(session, self.name)
        self._sent: deque[PreparedRequest] = deque(maxlen=SENT)

    def _see(self, record: AppRecord) -> None:
        """Show what the session says of it from now on."""
        self._record = record
        self.plan = with_settings(self._planned, record.spec, self.session.store.get)
        self.changes = record.changes

    @property
    def limits(self) -> Limits:
        """Bounds within which each replica works."""
        return self._record.spec.limits

    @property
    def batch_sizes(self) -> Mapping[str, int]:
        """Largest batch by step, where it differs from the step's own."""
        return self._record.spec.batch_sizes

    # ---- calling ----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask it over HTTP, with the pipeline's arguments and for the pipeline's result.

        Raises:
            RequestError: it answered with an error, or not at all.
            InputError: the arguments do not fit.
        """
        return self._ask(self._bind(args, kwargs))

    def map(
        self,
        inputs: Iterable[Any],
        *,
        concurrency: int = 16,
        on_error: Literal["raise", "keep"] = "raise",
        progress: bool = True,
    ) -> Any:
        """Ask it for many inputs, some at a time; results in order.

        Args:
            inputs: dicts of arguments, a DataFrame with columns named like the parameters, or bare
                values where one parameter is required.
            concurrency: requests under way at once.
            on_error: "raise" stops at the first failure; "keep" puts the error in its place.
            progress: whether to show a bar.

        Returns:
            a list, or, for a DataFrame, a DataFrame with the same index. An interrupt ends it
            early: what was not done is a `Cancelled` error in its place.
        """
        arguments = rows(inputs, self.graph.parameters)
        calls = Calls(self._ask, arguments, concurrency, stop_at_failure=on_error == "raise")
        results = calls.run(self.name if progress else None)
        return frame_of(inputs, results, self.name) if is_frame(inputs) else results

    def prepare(self, payload: Any) -> PreparedRequest:
        """The request for one payload, as bytes: what a load test sends."""
        if isinstance(payload, PreparedRequest):
            return payload
        return self._request(arguments_of(payload, self.graph.parameters))

    @property
    def sent(self) -> tuple[PreparedRequest, ...]:
        """The last requests that were sent through this object, the oldest first."""
        return tuple(self._sent)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            return signature_of(self.graph).bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{error}", where=f"app {self.name!r}") from None

    def _ask(self, arguments: dict[str, Any]) -> Any:
        return self._send(self._request(arguments))

    def _request(self, arguments: dict[str, Any]) -> PreparedRequest:
        local = localise_arguments(self.graph, arguments)
        return self._codec.request(self.url, self.token, local)

    def _send(self, request: PreparedRequest) -> Any:
        import httpx2

        if self._closed:
            raise RequestError("it was shut down", where=f"app {self.name!r}", fix="deploy again")
        if len(request.body or b"") <= SENT_BYTES:
            self._sent.append(request)
        began = perf_counter()
        try:
            answer = self._client.request(
                request.method, request.url, headers=request.headers, content=request.body
            )
        except httpx2.HTTPError as error:
            raise RequestError(
                f"no answer: {type(error).__name__}: {error}",
                where=f"app {self.name!r}",
                fix="app.status() says whether it runs",
            ) from error
        self._observed.took(answer.headers.get("x-request-id", ""), perf_counter() - began)
        if answer.status_code != 200:
            raise self._error(answer.status_code, answer.content)
        return self._codec.result(answer.content, answer.headers.get("content-type", ""))

    def _error(self, status: int, body: bytes) -> RequestError:
        """The error that an answer tells of, with the words that the server keeps to itself."""
        error = self._codec.error(status, body)
        if error.failure_id is not None:
            folder = self.session.folder / "logs"
            for failure in read_failures(folder, self.name, error.failure_id):
                error.got = failure.error
        return error

    @cached_property
    def _client(self) -> Any:
        import httpx2

        limits = httpx2.Limits(max_connections=256, max_keepalive_connections=256)
        # Retries are for connections that could not be made: nothing was sent then.
        transport = httpx2.HTTPTransport(retries=2, limits=limits)
        # The server answers 504 at its own limit; an answer that is on its way then still counts.
        timeout = httpx2.Timeout(self.limits.request_timeout_s + ANSWER_MARGIN_S, connect=5)
        client = httpx2.Client(transport=transport, timeout=timeout)
        weakref.finalize(self, client.close)  # running the deploy cell again leaves this app behind
        return client

    # ---- changing ---------------------------------------------------------------------------

    def scale(
        self, name: str, num_replicas: int | None = None, **options: Any
    ) -> tuple[Change, ...]:
        """Change how it runs while it runs; nothing is loaded again, and no request is lost.

        ::

            app.scale("download", 3)
            app.scale("download", min_replicas=1, max_replicas=4, target_ongoing_requests=2)
            app.scale("classify", max_batch_size=16)
            app.scale("tag", max_ongoing_requests=64)   # of the front: more are answered 503

        Running the deploy cell again brings it back to what is written there.

        Args:
            name: of a stage; or of a step that has one to itself, or for its ``max_batch_size``.
            num_replicas: how many there are from now on, instead of autoscaling.
            options: ``min_replicas``, ``max_replicas``, ``target_ongoing_requests``, delays,
                factors and ``policy`` of autoscaling; ``max_ongoing_requests``,
                ``max_queued_requests``; ``max_batch_size``.

        Returns:
            what was changed, stage by stage, as in `changes`.

        Raises:
            DeployError: there is no such stage or option, the step shares its stage with others,
                or the new replicas do not start: then what was there before is there again.
            DefinitionError: a value cannot be.
        """
        if self._closed:
            raise DeployError("it was shut down", where=f"app {self.name!r}", fix="deploy again")
        if num_replicas is not None:
            options["num_replicas"] = num_replicas
        for attempt in range(SCALE_ATTEMPTS):
            try:
                self._see(self.session.call(self._scale_call(name, options)))
                break
            except DeployConflict:
                if attempt + 1 == SCALE_ATTEMPTS:
                    raise
                self._refresh()  # the change is made to what is there now
        return self.changes

    def _scale_call(self, name: str, options: Mapping[str, Any]) -> ScaleApp:
        new = scaled(Scaled(self.plan, self.limits, self.batch_sizes), name, options)
        before = {stage.name: stage for stage in self.plan.stages}
        return ScaleApp(
            app=self.name,
            generation=self._record.generation,
            settings={
                stage.name: settings_of(stage, self.session.store.put)
                for stage in new.plan.stages
                if stage is not before[stage.name]
            },
            limits=new.limits,
            batch_sizes=dict(new.sizes),
        )

    def _refresh(self) -> None:
        record = self.session.about().apps.get(self.name)
        if record is None:
            raise DeployError("it is not there any more", where=f"app {self.name!r}")
        if record.spec.plan != self._record.spec.plan:
            raise DeployConflict(
                "it was deployed again in the meantime",
                where=f"app {self.name!r}",
                fix=f"take the new one: app = attach({self.name!r})",
            )
        self._see(record)

    # ---- looking ----------------------------------------------------------------------------

    @property
    def docs(self) -> str:
        """Address of the documentation page; opens once, within a minute.

        A cookie opens the page for eight hours from then on. It is good for nothing else: to try a
        call on the page, put the token under "Authorize".
        """
        code = f"?code={new_code(self.token, self.name)}" if self.token else ""
        return f"{self._base}/docs{code}"

    def curl(self, file: str = "photo.jpg") -> str:
        """A command for the shell that asks it; reads the token from a file of this user's."""
        parts = ["curl", "-sS"]
        if self.token:
            parts.append(f"-H @{self._header}")
        uploads = [n for n, p in self._codec.ports.items() if p.to_bytes is not None]
        if uploads:
            parts += [f"-F {uploads[0]}=@{file}", self.url]
        else:
            example = ", ".join(f'"{p.name}": ...' for p in self.graph.parameters)
            parts += ["-H 'Content-Type: application/json'", f"-d '{{{example}}}'", self.url]
        return " ".join(parts)

    def _write_header(self) -> Path:
        """Put the token where only this user's shell can read it, for `curl`."""
        path = self.session.folder / f"{self.name}.header"
        if self.token is not None:
            path.touch(mode=0o600)
            path.write_text(f"Authorization: Bearer {self.token}\n")
        return path

    def status(self) -> AppStatus:
        """What Serve says of it now."""
        if self._closed:
            return AppStatus("NOT_RUNNING", {}, "it was shut down", {})
        try:
            health = self.session.call(GetHealth(app=self.name), timeout_s=10)
        except SessionTimeout:
            raise
        except SessionError:
            return AppStatus("NOT_RUNNING", {}, "its session is gone", {})
        stages = {name: dict(stage.replicas) for name, stage in health.stages.items()}
        total: Counter[str] = Counter()
        for replicas in stages.values():
            total.update(replicas)
        return AppStatus(health.state, dict(total), health.message, stages)

    def placement(self) -> Placement:
        """Where its replicas sit, and what is taken of each node, as Ray has it now."""
        reply = self.session.call(GetPlacement(app=self.name), timeout_s=10)
        return Placement(self.plan, reply.replicas, reply.nodes, reply.taken)

    def logs(self, step: str | None = None, *, last: int | None = None) -> Logs:
        """What its replicas print and log, oldest first.

        Args:
            step: only what this step printed.
            last: only so many lines.

        Raises:
            DeployError: there is no such step.
        """
        if step is not None:
            self._check_step(step)
        lines = read_logs(self.session.folder / "logs", self.name)
        picked = [line for line in lines if step is None or line.step == step]
        return Logs(picked if last is None else picked[-last:])

    @property
    def failures(self) -> list[Failure]:
        """The last failures of its steps, oldest first; each has the traceback."""
        return read_failures(self.session.folder / "logs", self.name)[-100:]

    @property
    def metrics(self) -> History:
        """What was counted of all replicas up to now: ``app.metrics.to_frame()``.

        On an app that was shut down it is what was read before.
        """
        return self._observed.history(read=not self._closed)

    @property
    def scaling(self) -> Scaling:
        """What was decided of its replicas and why: ``app.scaling``, ``app.scaling.plot()``.

        On an app that was shut down it is what was read before.
        """
        return self._observed.scaling(read=not self._closed)

    def view(self, window_s: int = 300) -> Snapshot:
        """A static dashboard of this moment, without widgets: figures, charts, graph and tables.

        It displays itself in a cell; ``.html``, ``.svg`` and ``str()`` export it. Of an app that
        was shut down it shows the last state that was read.

        Args:
            window_s: seconds that the charts show: 60, 300 or 900.
        """
        from mlkit.views.snapshot import view

        return view(self, window_s)

    def slowest(self, count: int = 10) -> Slowest:
        """The slowest requests of the last 15 minutes; at low rates, of the last 5,000."""
        return self._observed.slowest(count)

    def peek(self, step: str, last: int = 5, *, timeout_s: float = 3.0) -> Peek:
        """What went into a step and what came out: samples of the last requests, with pictures.

        Its replicas keep one sample in each half second, from the first call until half a minute
        after the last; before that nothing is kept.

        Args:
            step: its name.
            last: samples at most; 20 are kept.
            timeout_s: how long to wait for the first one.

        Raises:
            DeployError: there is no such step.
        """
        self._check_step(step)
        return self._observed.peek(step, last, timeout_s)

    def _check_step(self, step: str) -> None:
        if step not in self.graph:
            raise DeployError(
                f"there is no step {step!r}",
                where=f"app {self.name!r}",
                expected=f"one of {', '.join(node.name for node in self.graph)}",
            )

    def trace(self, id: str) -> Trace:
        """Where the time of one request went: ``app.trace(id).plot()``.

        Args:
            id: the ``X-Request-Id`` of its answer, or what `slowest` shows.

        Raises:
            InputError: it is not among the last 5,000, or younger than a second.
        """
        return self._observed.trace(id)

    @property
    def closed(self) -> bool:
        """Whether it was shut down through this object."""
        return self._closed

    # ---- ending -----------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Take it down; what else the session serves stays. Without effect the second time."""
        if self._closed:
            return
        self._closed = True
        if "_client" in self.__dict__:
            self._client.close()
        try:
            if not self.session.call(DeleteApp(app=self.name)):
                self.session.stop()
        except SessionError:
            pass

    def __enter__(self) -> App:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "shut down" if self._closed else f"at {self.url}"
        return f"<app {self.name} {state}>"

    def __str__(self) -> str:
        from mlkit.views.card import card_of, to_text

        return to_text(card_of(self))

    def _repr_html_(self) -> str:
        from mlkit.views.card import card_of, to_html

        return to_html(card_of(self))
