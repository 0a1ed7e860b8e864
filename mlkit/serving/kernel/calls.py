"""Concurrent requests for `App.map`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from mlkit.errors import Cancelled, MlkitError

__all__ = ["Calls"]


class Calls:
    """Requests of one `App.map`.

    Args:
        send: sends the request for one set of arguments and returns its result.
        arguments: one set for each request.
        concurrency: maximum of requests in flight.
        stop_at_failure: whether the first failure is raised and ends the sending.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        arguments: Sequence[dict[str, Any]],
        concurrency: int,
        *,
        stop_at_failure: bool,
    ) -> None:
        self._send = send
        self.arguments = arguments
        self.concurrency = concurrency
        self.stop_at_failure = stop_at_failure
        self.results: list[Any] = [Cancelled("interrupted before completion")] * len(arguments)
        self._stop = threading.Event()

    def run(self, progress_label: str | None) -> list[Any]:
        """Send the requests; a failed or cancelled one has its error in place of a result.

        Args:
            progress_label: label of the progress bar; None for no bar.
        """
        from tqdm.auto import tqdm

        total = len(self.arguments)
        bar = tqdm(total=total, desc=progress_label, disable=progress_label is None)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="mlkit-map")
        pending: set[Future[None]] = {pool.submit(self._run_one, i) for i in range(total)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                bar.update(len(done))
                for future in done:
                    future.result()
        except KeyboardInterrupt:
            finished = sum(not isinstance(result, Cancelled) for result in self.results)
            print(f"interrupted: {finished} of {total} done")  # noqa: T201
        finally:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            bar.close()
        return self.results

    def _run_one(self, i: int) -> None:
        if self._stop.is_set():
            return
        try:
            self.results[i] = self._send(self.arguments[i])
        except (MlkitError, OSError) as error:
            self.results[i] = error
            if self.stop_at_failure:
                self._stop.set()
                raise
