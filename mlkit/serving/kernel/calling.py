"""Requests to a deployed app: calls, streams, jobs, and links for a browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

from mlkit.define.functions import bind_arguments
from mlkit.errors import entry_point
from mlkit.execute.inputs import arguments_of, is_frame, rows, signature_of
from mlkit.execute.local import localise_arguments, not_streaming
from mlkit.execute.offline import frame_of
from mlkit.execute.priority import Priority, places
from mlkit.serving.http.access import new_code
from mlkit.serving.kernel.attached import Attached
from mlkit.serving.kernel.calls import Calls
from mlkit.serving.kernel.client import PreparedRequest
from mlkit.serving.kernel.curl import curl
from mlkit.serving.kernel.jobs import SubmittedJob
from mlkit.serving.kernel.playground import PlaygroundLink

__all__ = ["Calling"]


class Calling(Attached):
    """Sends requests, and prepares those of other clients."""

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
        return bind_arguments(
            signature_of(self.graph),
            args,
            kwargs,
            where=f"app {self.name!r}",
            expected=self.graph.signature,
            partial=partial,
        ).arguments

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
