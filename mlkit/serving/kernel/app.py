"""`App`: a deployed pipeline."""

from __future__ import annotations

import webbrowser
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlkit.autoscale import Scaling
from mlkit.errors import (
    DeployError,
    InputError,
    SessionError,
    SessionTimeout,
    did_you_mean,
    entry_point,
)
from mlkit.execute.cores import cores
from mlkit.execute.inputs import arguments_of, is_frame, rows, signature_of
from mlkit.execute.local import localise_arguments, not_streaming
from mlkit.execute.offline import frame_of
from mlkit.execute.priority import Priority, places
from mlkit.metrics import History, Trace
from mlkit.metrics.compare import Comparisons, Disagreements
from mlkit.metrics.peek import Peek
from mlkit.metrics.pools import Pools
from mlkit.pipelines import Pipeline
from mlkit.plan import Plan
from mlkit.plan.machine import machine_resources
from mlkit.serving.control.audit import read_audit
from mlkit.serving.control.folders import LOGS
from mlkit.serving.control.protocol import GetComparisons, GetHealth, GetPlacement
from mlkit.serving.control.records import AppRecord, Change, Trial
from mlkit.serving.http.access import new_code
from mlkit.serving.kernel.calls import Calls
from mlkit.serving.kernel.cells import Definition, outdated
from mlkit.serving.kernel.checkup import Facts, about_app, sizes_of
from mlkit.serving.kernel.client import Codec, PreparedRequest
from mlkit.serving.kernel.curl import curl
from mlkit.serving.kernel.doctor import Findings, about_machine
from mlkit.serving.kernel.jobs import SubmittedJob
from mlkit.serving.kernel.playground import PlaygroundLink
from mlkit.serving.kernel.reproduce import FailedRequest, Reproduction
from mlkit.serving.kernel.revisions import Revisions
from mlkit.serving.kernel.sender import Sender, shut_down
from mlkit.serving.kernel.session import Session
from mlkit.serving.kernel.status import AppStatus, Logs, Placement, Snapshot
from mlkit.serving.kernel.telemetry import Observed, Slowest
from mlkit.serving.kernel.tokens import Tokens
from mlkit.serving.kernel.versions import Versions
from mlkit.serving.limits import Limits
from mlkit.serving.replica.output import read_failures, read_logs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["App"]


class App:
    """A deployed pipeline. Call it like the pipeline; each call is an HTTP request.

    Attributes:
        name: the pipeline's name.
        graph: the pipeline's graph.
        url: URL for POST requests.
        token: bearer token for ``Authorization``; None if none is required.
        tokens: further tokens, which can be revoked, with scopes and rates.
    """

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
        self._sender = Sender(self._codec, timeout_s, self._logs_folder, self._observed.took)

    @property
    def plan(self) -> Plan:
        """Its division into stages."""
        return self._revisions.plan

    @property
    def changes(self) -> tuple[Change, ...]:
        """What the last deployment or change has changed, by stage, and why."""
        return self._record.changes

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

    # ---- calling ----------------------------------------------------------------------------

    @entry_point
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Send a request with the pipeline's arguments and return the pipeline's result.

        Raises:
            RequestError: the response is an error, or there is none.
            InputError: the arguments do not match the pipeline's parameters.
        """
        return self._call(self._bind(args, kwargs))

    @entry_point
    def stream(self, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Send a request, and iterate over the items of the response as they arrive.

        The request is sent by the first `next`. Closing the iterator, or leaving a loop over it,
        closes the connection, and with it the generator in the replica.

        Raises:
            DefinitionError: the pipeline does not stream.
            RequestError: the response is an error, or there is none, or it breaks off.
            InputError: the arguments do not match the pipeline's parameters.
        """
        if not self.graph.streams:
            raise not_streaming(self.graph)
        return self._sender.stream(self._request(self._bind(args, kwargs), stream=True))

    @entry_point
    def map(
        self,
        inputs: Iterable[Any],
        *,
        concurrency: int = 16,
        on_error: Literal["raise", "keep"] = "raise",
        progress: bool = True,
        priority: Literal["interactive", "bulk"] = "bulk",
    ) -> Any:
        """Send a request for each input, concurrently; return the results in order.

        Args:
            inputs: dicts of arguments, a DataFrame with columns named like the parameters, or bare
                values if one parameter is required.
            concurrency: maximum of requests in flight, at most as many as the app admits.
            on_error: "raise" stops at the first failure; "keep" puts the error in its place.
            progress: whether to show a progress bar.
            priority: of the requests; those of a bulk job give way to interactive calls.

        Returns:
            a list, or, for a DataFrame, a DataFrame with the same index. An interrupt ends it
            early, with a `Cancelled` error in place of each missing result.
        """
        arguments = rows(inputs, self.graph.parameters)
        order = Priority.named(priority)
        send = partial(self._call, priority=order)
        if isinstance(concurrency, int):  # anything else is rejected below
            admitted = places(self.limits.max_ongoing_requests, order)
            concurrency = min(concurrency, admitted * max(1, self.plan.front.least_replicas))
        calls = Calls(send, arguments, concurrency, stop_at_failure=on_error == "raise")
        results = calls.run(self.name if progress else None)
        return frame_of(inputs, results, self.name) if is_frame(inputs) else results

    @entry_point
    def submit(self, inputs: Iterable[Any]) -> SubmittedJob:
        """Submit inputs as a job, which the app runs in the background.

        ::

            job = app.submit(photos)
            job.progress            # 120 of 500 done, 2 failed
            job.results()           # waits; a DataFrame in the order of the inputs

        It goes on without this kernel, over a redeployment, and if a replica dies; calls of the app
        go first. `job` returns it again.

        Args:
            inputs: dicts of arguments, a DataFrame with columns named like the parameters, or bare
                values if one parameter is required.

        Raises:
            InputError: an input does not match the parameters.
            RequestError: the job is too large, or too many are running.
        """
        arguments = rows(inputs, self.graph.parameters)
        local = [localise_arguments(self.graph, each) for each in arguments]
        index = inputs.index if is_frame(inputs) else None  # type: ignore[attr-defined]
        return SubmittedJob.submitted(self._sender, self._codec, self.url, self.token, local, index)

    @entry_point
    def job(self, id: str) -> SubmittedJob:
        """Return a job that was submitted earlier, by its `SubmittedJob.id`.

        Raises:
            RequestError: there is no such job.
        """
        job = SubmittedJob(self._sender, self._codec, self.url, self.token, id)
        _ = job.progress  # it exists
        return job

    @entry_point
    def prepare(self, payload: Any) -> PreparedRequest:
        """Encode the request for one payload as other clients do, for a load test."""
        if isinstance(payload, PreparedRequest):
            return payload
        arguments = arguments_of(payload, self.graph.parameters)
        local = localise_arguments(self.graph, arguments)
        return self._codec.public_request(self.url, self.token, local)

    @property
    def sent(self) -> tuple[PreparedRequest, ...]:
        """The last requests sent by this object, oldest first."""
        return tuple(self._sender.sent)

    def _bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, partial: bool = False
    ) -> dict[str, Any]:
        signature = signature_of(self.graph)
        try:
            return (signature.bind_partial if partial else signature.bind)(
                *args, **kwargs
            ).arguments
        except TypeError as error:
            names = [parameter.name for parameter in self.graph.parameters]
            unknown = [name for name in kwargs if name not in names]
            raise InputError(
                f"{error}",
                where=f"app {self.name!r}",
                expected=self.graph.signature,
                fix=next(filter(None, (did_you_mean(name, names) for name in unknown)), None),
            ) from None

    def _call(self, arguments: dict[str, Any], priority: Priority = Priority.INTERACTIVE) -> Any:
        return self._sender.send(self._request(arguments, priority=priority))

    def _request(
        self,
        arguments: dict[str, Any],
        *,
        stream: bool = False,
        priority: Priority = Priority.INTERACTIVE,
    ) -> PreparedRequest:
        local = localise_arguments(self.graph, arguments)
        return self._codec.request(self.url, self.token, local, stream=stream, priority=priority)

    def _check_open(self) -> None:
        if self.closed:
            raise shut_down(DeployError, self.name)

    # ---- changing ---------------------------------------------------------------------------

    @entry_point
    def scale(
        self, name: str, num_replicas: int | None = None, **options: Any
    ) -> tuple[Change, ...]:
        """Change how it runs without reloading anything or failing a request.

        ::

            app.scale("download", 3)
            app.scale("download", min_replicas=1, max_replicas=4, target_ongoing_requests=2)
            app.scale("classify", max_batch_size=16)
            app.scale("tag", max_ongoing_requests=64)   # of the front: 503 beyond

        Deploying again restores the options of the deploy cell.

        Args:
            name: name of a stage, of a step with a stage of its own, or, for ``max_batch_size``,
                of any batched step.
            num_replicas: fixed number of replicas, instead of autoscaling.
            options: ``min_replicas``, ``max_replicas``, ``target_ongoing_requests``, delays,
                factors and ``policy`` of autoscaling; ``max_ongoing_requests``,
                ``max_queued_requests``; ``max_batch_size``.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such stage or option, the step shares its stage with others,
                or the new replicas fail to start, and the change was rolled back.
            DefinitionError: a value is invalid.
        """
        self._check_open()
        if num_replicas is not None:
            options["num_replicas"] = num_replicas
        self._revisions.scale(name, options)
        return self.changes

    @entry_point
    def swap(
        self, name: str, new: Any, *, canary: float = 0.0, shadow: float = 0.0
    ) -> tuple[Change, ...]:
        """Replace a resource of a step, such as its model, without failing a request.

        ::

            app.swap("classify", resource(load_v2))              # takes over at once
            app.swap("classify", clf, canary=0.1)                # answers a tenth of the requests
            app.swap("classify", clf, shadow=0.2)                # sees copies of a fifth of them
            app.promote()                                        # or app.rollback()

        The new one is loaded beside the old one, and tried on the last request that each replica
        has answered: the swapped step and those that depend on it run once more. If that fails or
        returns NaN, the old one goes on serving. Each response names the version that made it in
        the header ``X-Mlkit-Version``; see `version` and `trial`.

        Deploying again restores what is in the deploy cell.

        Args:
            name: name of the step, or ``step.keyword`` if it has several resources.
            new: a resource, a loader (a function, a class or a `functools.partial`), or the value
                itself.
            canary: share of the requests that the new version answers, by the hash of
                ``X-Request-Id``. Call it again with another share to change that.
            shadow: share of the other requests that the new version sees a copy of, after the
                response. It is dropped where there is no time for it. See `disagreements`.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such step, another version is on trial, or the new one cannot
                be loaded or fails on a recent request.
            DefinitionError: a share is invalid, or the value is not of the type that the step
                declares.
        """
        self._check_open()
        self._revisions.swap(name, new, canary=canary, shadow=shadow)
        return self.changes

    @entry_point
    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> tuple[Change, ...]:
        """Change configuration of steps without a restart and without failing a request.

        ::

            @step
            def decide(score: float, threshold: float = 0.5) -> bool: ...

            app.update(threshold=0.7)               # decide(score(x)) does not pass it
            app.update({"decide.threshold": 0.7})   # where several steps have a threshold

        As with `swap`, the new value is tried on the last request that each replica has answered,
        `versions` lists the change, and `rollback` undoes it. Deploying again restores what is in
        the deploy cell; the notebook's own steps keep their defaults.

        Args:
            values: new values by ``step.keyword``, as in `configuration`, or by keyword.
            more: new values by keyword.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: no step has such a parameter, several have it, another version is on
                trial, or the value fails on a recent request.
            DefinitionError: a value does not match the annotation of its parameter.
        """
        self._check_open()
        self._revisions.update({**(values or {}), **more})
        return self.changes

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What `update` can change, by ``step.keyword``: values that answer now.

        These are the defaults of parameters that the pipeline does not pass, and resources that
        are plain values.
        """
        return self._revisions.configuration

    @entry_point
    def promote(self) -> tuple[Change, ...]:
        """Have the version on trial take over; nothing is loaded again.

        Raises:
            DeployError: no version is on trial.
            DeployConflict: another one is by now.
        """
        self._check_open()
        self._revisions.promote()
        return self.changes

    @entry_point
    def rollback(self, version: str = "") -> tuple[Change, ...]:
        """Go back to the version that answered before; while one is on trial, end the trial.

        ::

            app.versions                        # what answered when
            app.rollback()                      # the one before: a deployment, swap or update
            app.rollback("3fa2")                # the one that begins with these digits

        A version that was rolled back from is skipped by the next call, which goes further back,
        but can be named. Code, models, configuration, limits and environment are those of the
        version. What `scale` sets stays: replicas and autoscaling always, limits and batch sizes
        where only a swap or an update is undone. The notebook's cells stay as they are: running the
        deploy cell deploys them again.

        Args:
            version: a version of `versions`, or its first digits, at least four.

        Returns:
            the changes by stage, as in `changes`.

        Raises:
            DeployError: there is no such version, or it does not start any more.
            DeployConflict: the app was changed at the same time.
        """
        self._check_open()
        plan = self._record.spec.plan
        self._revisions.roll_back(version)
        if self._record.spec.plan != plan:
            self._sender.close()
            self._connect()
        return self.changes

    @property
    def versions(self) -> Versions:
        """The last ten versions, oldest first: when each began to answer, and what changed.

        It displays itself as a table; ``.to_frame()`` returns a DataFrame. The session keeps it,
        so that `attach` finds it after a restart of the kernel.
        """
        return Versions.of(self._record if self.closed else self._revisions.look())

    @property
    def version(self) -> str:
        """The version that answers, as in the header ``X-Mlkit-Version``."""
        return self._record.version

    @property
    def trial(self) -> Trial | None:
        """The version on trial, with its shares; None if there is none."""
        return self._record.trial

    @entry_point
    def disagreements(self) -> Disagreements:
        """Return the requests for which the last shadow returned something else.

        It displays itself as a table with thumbnails; ``.to_frame()`` returns a DataFrame.
        """
        compared = self.session.call(GetComparisons(app=self.name), timeout_s=10)
        trial = self.trial
        if trial is not None and trial.shadow and trial.version != compared["version"]:
            compared = Comparisons().pack(0.0) | {"version": trial.version}  # it has seen nothing
        return Disagreements(**{**compared, "samples": tuple(compared["samples"][::-1])})

    # ---- observation ------------------------------------------------------------------------

    @property
    def docs(self) -> str:
        """URL of the documentation page, valid once and for one minute.

        It sets a cookie that gives access to the page, and to nothing else, for eight hours. To
        send a request from the page, enter the token under "Authorize".
        """
        return self._page("docs")

    @entry_point
    def playground(self, *, open: bool = False) -> PlaygroundLink:
        """Return a link to a page on which the app can be tried in a browser.

        The page has a form made from the pipeline's types, shows answers as a notebook does, and
        the same request with curl. The link is valid once and for one minute; it sets a cookie
        with which the page can send requests for eight hours.

        Args:
            open: whether to open it in a browser of the notebook's machine.
        """
        link = PlaygroundLink(self.name, self._page("try"))
        if open:
            webbrowser.open(link.url)
        return link

    def _page(self, page: Literal["docs", "try"]) -> str:
        """URL of a page for a browser, with a one-time code."""
        code = f"?code={new_code(self.token, self.name, page=page)}" if self.token else ""
        return f"{self._base}/{page}{code}"

    @entry_point
    def curl(self, /, *args: Any, **kwargs: Any) -> str:
        """Return a shell command that sends a request; it reads the token from a file.

        ::

            app.curl("shoe.jpg", title="Shoe")

        Args:
            *args: positional arguments of the pipeline; an upload may be a path.
            **kwargs: keyword arguments of the pipeline. For required arguments that are missing,
                the command has example values, and files such as ``photo.jpg``.

        Raises:
            InputError: the arguments do not match the pipeline's parameters.
        """
        arguments = self._bind(args, kwargs, partial=True)
        header = self._header if self.token else None
        return curl(self._codec, self.url, header, arguments, self.session.folder)

    def _write_header(self) -> Path:
        """Write the token for `curl` to a file that only this user can read."""
        path = self.session.folder / f"{self.name}.header"
        if self.token is not None:
            path.touch(mode=0o600)
            path.write_text(f"Authorization: Bearer {self.token}\n")
        return path

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
        """Return the changes of the app, oldest first: when, what, by whom, and how it ended.

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
        """Return what will go wrong with the app or its machine, and how to prevent it.

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
    def outdated(self) -> tuple[str, ...]:
        """Steps whose cells differ by now from what was deployed; of the pipeline, its name.

        Empty if that is unknown, as for an app whose cells this kernel has not run.
        """
        return outdated(self._record.spec.code, self._definition.pipeline)

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
    def view(self, window_s: int | None = None) -> Snapshot:
        """Return a static dashboard: figures, charts, graph and tables.

        It displays itself in a cell; ``.html``, ``.svg`` and ``str()`` export it. After a
        shutdown, it shows the last state that was read.

        Args:
            window_s: time range of the charts in seconds: 60, 300 or 900; by default the shortest
                that has all requests of the last 15 minutes.
        """
        from mlkit.views.snapshot import view

        return view(self, window_s)

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

    def _check_step(self, step: str) -> None:
        if step not in self.graph:
            raise DeployError(
                f"there is no step {step!r}",
                where=f"app {self.name!r}",
                expected=f"one of {', '.join(node.name for node in self.graph)}",
            )

    @entry_point
    def trace(self, id: str) -> Trace:
        """Return the trace of a request: ``app.trace(id).plot()``.

        Args:
            id: ``X-Request-Id`` of the response, or an id that `slowest` shows.

        Raises:
            InputError: it is not among the last 5,000, or less than a second old.
        """
        return self._observed.trace(id)

    @property
    def closed(self) -> bool:
        """Whether it was shut down through this object."""
        return self._sender.closed

    # ---- shutdown ---------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Delete the app; other apps of the session remain. Repeated calls have no effect.

        With the last app, Ray and Serve stop, in the background: the prompt returns at once.
        """
        if self.closed:
            return
        self._sender.close()
        with suppress(SessionError):  # it has ended already
            self.session.delete(self.name)

    def __enter__(self) -> App:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "shut down" if self.closed else f"at {self.url}"
        changed = self.outdated
        note = f"; changed since it was deployed: {', '.join(changed)}" if changed else ""
        return f"<app {self.name} {state}{note}>"

    def __str__(self) -> str:
        from mlkit.views.card import card_of, to_text

        return to_text(card_of(self))

    def _repr_html_(self) -> str:
        from mlkit.views.card import card_of, to_html

        return to_html(card_of(self))


def _sum_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum the resources of nodes."""
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node["resources"])
    return dict(total)
