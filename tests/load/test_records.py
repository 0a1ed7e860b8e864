import math

import pytest

from mlkit.load import RequestRecord
from mlkit.load.records import parse_server_timing


@pytest.fixture
def record():
    def make(**fields):
        plain = {
            "intended": 1.0,
            "sent": 1.002,
            "first_byte": 1.04,
            "finished": 1.05,
            "status": 200,
            "bytes": 10,
            "payload": 0,
            "error": None,
            "server_timing": "queue;dur=1.5",
        }
        return RequestRecord(**{**plain, **fields})

    return make


def test_latency_counts_from_the_intended_send(record):
    assert record().latency_ms == pytest.approx(50)
    assert record().lateness_ms == pytest.approx(2)


def test_a_failed_request_is_infinitely_late(record):
    assert math.isinf(record(error="http 503", status=503).latency_ms)


def test_phases_are_those_the_server_named(record):
    assert record().phases == {"queue": 1.5}


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("", {}),
        ("cache", {}),
        ("db;dur=53", {"db": 53.0}),
        ('a;desc="x, y; dur=9";dur=2.5,b;dur=1', {"a": 2.5, "b": 1.0}),
        ("a ; dur = 1 , a;dur=2", {"a": 3.0}),
        ('a;dur="4"', {"a": 4.0}),
    ],
)
def test_server_timing_headers(text, phases):
    assert parse_server_timing(text) == phases
