"""The log of an exported application, as JSON."""

import io
import json
import logging
import sys

import pytest
from starlette.testclient import TestClient

from mlkit import pipeline, step
from mlkit.errors import DeployError
from mlkit.serving import asgi
from mlkit.serving.http.logs import log_as

logger = logging.getLogger("shop.counting")  # whose level and state no other test changes
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@step
def count(words: str) -> int:
    logger.warning("%d words", len(words.split()))
    return len(words.split())


@pipeline
def counting(words: str) -> int:
    return count(words)


@pytest.fixture
def written(monkeypatch):
    """Returns a function: the lines that were written, as objects."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    # Servers that other tests run may have disabled it, or raised the level of the root.
    monkeypatch.setattr(logger, "disabled", False)
    logger.setLevel(logging.WARNING)
    log_as("json")

    def own_lines():  # threads of earlier tests may still log
        lines = map(json.loads, stream.getvalue().splitlines())
        return [line for line in lines if line["logger"] == logger.name]

    yield own_lines
    logger.setLevel(logging.NOTSET)


def test_a_line_names_its_request_and_step(written) -> None:
    headers = {
        "X-Request-Id": "abc-1",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    with TestClient(asgi(counting), base_url="http://127.0.0.1") as client:
        assert client.post("/counting", json={"words": "two words"}, headers=headers).json() == 2
    (line,) = written()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "shop.counting",
        "message": "2 words",
        "request_id": "abc-1",
        "trace_id": TRACE,
        "step": "count",
    }


def test_a_line_outside_of_a_request_has_neither(written) -> None:
    try:
        raise ValueError("no luck\nat all")
    except ValueError:
        logger.exception("it failed")
    (line,) = written()
    assert line.keys() == {"time", "level", "logger", "message", "exception"}
    assert line["exception"].endswith("ValueError: no luck\nat all")


def test_another_format_is_refused() -> None:
    with pytest.raises(DeployError, match="MLKIT_LOG_FORMAT=json"):
        log_as("xml")
