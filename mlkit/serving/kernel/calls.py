"""Many requests of one caller, some at a time: what `App.map` runs."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from mlkit.errors import Cancelled, MlkitError

if TYPE_CHECKING:
    from mlkit.serving.kernel.app import App

__all__ = ["Calls"]


class Calls:
    """Requests of one `App.map`."""

    def __init__(
        self, app: App, arguments: list[dict[str, Any]], concurrency: int, on_error: str
    ) -> None:
        self.app = app
        self.arguments = arguments
        self.concurrency = concurrency
        self.stop_at_failure = on_error == "raise"
        self.results: list[Any] = [Cancelled("interrupted before it was done")] * len(arguments)
        self._stop = threading.Event()

    def run(self, progress: bool) -> list[Any]:
        """Send them; an error, or that it was not done, is in the place of its result."""
        from tqdm.auto import tqdm

        bar = tqdm(total=len(self.arguments), desc=self.app.name, disable=not progress)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="mlkit-map")
        left: set[Future[None]] = {pool.submit(self._one, i) for i in range(len(self.arguments))}
        try:
            while left:
                done, left = wait(left, return_when=FIRST_COMPLETED)
                bar.update(len(done))
                for future in done:
                    future.result()
        except KeyboardInterrupt:
            made = sum(not isinstance(r, Cancelled) for r in self.results)
            print(f"interrupted: {made} of {len(self.results)} done")  # noqa: T201
        finally:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            bar.close()
        return self.results

    def _one(self, i: int) -> None:
        if self._stop.is_set():
            return
        try:
            self.results[i] = self.app._send(self.app._request(self.arguments[i]))
        except (MlkitError, OSError) as error:
            self.results[i] = error
            if self.stop_at_failure:
                self._stop.set()
                raise
