"""Jobs of an app, as a notebook sees them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from mlkit.errors import InputError, RequestError
from mlkit.execute.offline import frame_of
from mlkit.serving.kernel.client import Codec, PreparedRequest, authorization
from mlkit.serving.kernel.sender import Sender

__all__ = ["JobProgress", "SubmittedJob"]

POLL_S = 0.5


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        state: "running", "done" or "cancelled".
        total: number of its inputs.
        done: inputs with a result, or an error.
        failed: those with an error.
    """

    state: Literal["running", "done", "cancelled"]
    total: int
    done: int
    failed: int

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        cancelled = ", cancelled" if self.state == "cancelled" else ""
        return f"{self.done:,} of {self.total:,} done{failed}{cancelled}"


class SubmittedJob:
    """A job of an app.

    Args:
        sender: sends the requests.
        codec: of the app's pipeline.
        url: of the pipeline's route.
        token: bearer token of the app.
        id: its id.
        index: of the DataFrame of its inputs; None for 0, 1, ....
        sleep: waits for a number of seconds.

    Attributes:
        id: its id.
    """

    def __init__(
        self,
        sender: Sender,
        codec: Codec,
        url: str,
        token: str | None,
        id: str,
        index: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.id = id
        self._sender, self._codec, self._url, self._token = sender, codec, url, token
        self._index, self._sleep = index, sleep

    @classmethod
    def submitted(
        cls,
        sender: Sender,
        codec: Codec,
        url: str,
        token: str | None,
        arguments: Sequence[Mapping[str, Any]],
        index: Any = None,
    ) -> SubmittedJob:
        """Submit arguments by name, for each input."""
        headers = {**authorization(token), "Content-Type": "application/x-ndjson"}
        body = b"\n".join(map(codec.json_body, arguments))
        request = PreparedRequest("POST", f"{url}/jobs", headers, body)
        # It is not sent again if the connection is lost, since it may have been accepted.
        id = json.loads(sender.ask(request, idempotent=False))["id"]
        return cls(sender, codec, url, token, id, index)

    @property
    def progress(self) -> JobProgress:
        """How far it is now."""
        document = json.loads(self._ask("GET"))
        return JobProgress(*(document[name] for name in ("state", "total", "done", "failed")))

    def wait(self, timeout_s: float | None = None, *, progress: bool = True) -> JobProgress:
        """Wait until it has ended, or for a time; return how far it is then.

        Args:
            timeout_s: the time in seconds; None for as long as it takes.
            progress: whether to show a progress bar.
        """
        from tqdm.auto import tqdm

        current, waited_s = self.progress, 0.0
        name = self._codec.graph.name
        with tqdm(total=current.total, desc=name, unit=" inputs", disable=not progress) as bar:
            bar.update(current.done)
            while current.state == "running" and (timeout_s is None or waited_s < timeout_s):
                self._sleep(POLL_S)
                waited_s += POLL_S
                current = self.progress
                bar.update(current.done - bar.n)
        return current

    def results(self, *, wait: bool = True, progress: bool = True) -> Any:
        """Return the results as a DataFrame in the order of the inputs.

        A column per field of the result, else one that is named after the pipeline; ``error`` has
        the errors, if there are any. Its index is that of the inputs.

        Args:
            wait: whether to wait until the job has ended; else inputs without a result have an
                error that states it.
            progress: whether to show a progress bar while waiting.
        """
        import pandas as pd

        now = self.wait(progress=progress) if wait else self.progress
        results: list[Any] = [RequestError("it has no result yet")] * now.total
        for line in self._ask("GET", "/results").splitlines():
            document = json.loads(line)
            results[document["index"]] = self._decoded(document)
        index = pd.RangeIndex(now.total) if self._index is None else self._index
        return frame_of(SimpleNamespace(index=index), results, self._codec.graph.name)

    def _decoded(self, document: Mapping[str, Any]) -> Any:
        if document["status"] == 200:
            try:
                return self._codec.returns.from_json(document["result"])
            except InputError as error:  # such as NaN, which is null in JSON
                return RequestError(f"its result cannot be decoded: {error}")
        return self._codec.error(document["status"], json.dumps(document["problem"]).encode())

    def cancel(self) -> JobProgress:
        """Cancel the items without a result; return the progress."""
        if self.progress.state == "running":
            self._ask("DELETE")
        return self.progress

    def _ask(self, method: str, path: str = "") -> bytes:
        url = f"{self._url}/jobs/{self.id}{path}"
        return self._sender.ask(PreparedRequest(method, url, authorization(self._token), b""))

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self._codec.graph.name!r}>"
