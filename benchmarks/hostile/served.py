"""A pipeline that hostile input is sent to, and a server for it in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import uvicorn

from mlkit.define import step
from mlkit.pipelines import Pipeline, pipeline
from mlkit.serving import asgi
from mlkit.serving.control.flags import free_port
from mlkit.types import ImageSource

__all__ = ["TOKEN", "LoggedErrors", "described", "serving"]

TOKEN = "a-token-of-tests"


@step
def describe(
    title: str, numbers: list[float], options: dict[str, int], day: date | None, seen: bool
) -> str:
    """Repeat the title."""
    return title


@step
def look(image: ImageSource | None) -> bool:
    """Whether there is an image."""
    return image is not None


@pipeline
def described(
    title: str,
    numbers: list[float] = [],  # noqa: B006  # pipelines copy their defaults
    options: dict[str, int] = {},  # noqa: B006
    day: date | None = None,
    image: ImageSource | None = None,
) -> str:
    """Repeat the title."""
    return describe(title, numbers, options, day, look(image))


class LoggedErrors(logging.Handler):
    """Collects what a server logs as errors, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record."""
        self.texts.append(logging.Formatter().format(record))


@contextmanager
def serving(pipe: Pipeline[..., Any]) -> Iterator[tuple[int, LoggedErrors]]:
    """Serve a pipeline with uvicorn; yield the port, and what the server logs as errors."""
    port, logged = free_port(), LoggedErrors()
    config = uvicorn.Config(
        asgi(pipe, token=TOKEN), port=port, log_config=None, timeout_graceful_shutdown=1
    )
    logging.getLogger("uvicorn.error").addHandler(logged)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not server.started:
            if time.monotonic() > end or not thread.is_alive():
                raise TimeoutError("uvicorn has not started")
            time.sleep(0.01)
        yield port, logged
    finally:
        server.should_exit = True
        thread.join()
        logging.getLogger("uvicorn.error").removeHandler(logged)
