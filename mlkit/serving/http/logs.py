"""Log records as JSON, one object per line, with the request that they were written for."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from mlkit.define.step import running_step
from mlkit.errors import DeployError
from mlkit.metrics.context import current_request

__all__ = ["JsonFormatter", "log_as"]


class JsonFormatter(logging.Formatter):
    """Formats records as JSON.

    ``request_id``, ``trace_id`` and ``step`` are left out of what is written outside of a request
    or a step; what a batched step writes is for many requests.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        request = current_request()
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request and request.id,
            "trace_id": request and request.trace_id,
            "step": running_step.get(),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in fields.items() if value})


def log_as(format: str) -> None:
    """Write the log of this process to its standard error.

    Args:
        format: "json", or "" to leave logging as it is.

    Raises:
        DeployError: another format.
    """
    if format not in ("", "json"):
        raise DeployError(
            "unknown format of the log", expected="MLKIT_LOG_FORMAT=json", got=repr(format)
        )
    if format:
        handler = logging.StreamHandler(sys.__stderr__)
        handler.setFormatter(JsonFormatter())
        logging.getLogger().addHandler(handler)
