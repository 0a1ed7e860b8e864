"""What the measurement of redeployments counts, without Ray."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import trust
from mlkit.load.expect import Received


def received(text: str, status: int = 200) -> Received:
    return Received(status, "application/json", json.dumps(text).encode())


def test_a_version_runs_here_and_its_result_is_whole() -> None:
    result = trust.Version(mark=3).pipeline()(1.0)
    assert trust._whole(received(result))


@pytest.mark.parametrize(
    ("text", "status"),
    [("1.0 begin=1 score=2 0.5", 200), ("1.0 begin=1", 200), ("1.0 begin=1 score=1 0.5", 500)],
)
def test_a_mixture_and_a_failure_are_not(text, status) -> None:
    assert not trust._whole(received(text, status))


def test_failed_and_mixed_requests_are_told_apart() -> None:
    class Result(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.records)

    result = Result(
        records=[SimpleNamespace(status=status) for status in (200, 200, 503, 0)],
        ok=np.array([True, False, False, False]),
        latency_ms=np.array([1.0, 2.0, 3.0, 4.0]),
        errors={},
        void=(),
    )
    counts = trust._counts(result, 10.0, np.array([1.0]))
    assert {name: counts[name] for name in ("requests", "failed", "mixed")} == {
        "requests": 4,
        "failed": 2,
        "mixed": 1,
    }


@pytest.mark.parametrize("kind", ["constructor", "import", "memory"])
def test_a_bad_loader_fails(kind) -> None:
    load, _ = trust.BAD[kind]
    with pytest.raises((RuntimeError, ImportError, MemoryError)):
        load()


def test_every_kind_changes_the_version_that_is_deployed(monkeypatch) -> None:
    deployed = []
    monkeypatch.setattr(trust.Version, "deploy", lambda self: deployed.append(self) or "app")
    calls = []
    app = SimpleNamespace(update=lambda **values: calls.append(values), rollback=calls.append)
    redeploys = trust.Redeploys(app)
    for number, kind in enumerate(("code", "model", "options", "application"), 1):
        before = redeploys.version
        redeploys.kinds[kind](number)
        assert redeploys.version != before
        assert deployed[-1] == redeploys.version


def record(intended: float, latency_ms: float) -> SimpleNamespace:
    return SimpleNamespace(intended=intended, latency_ms=latency_ms)


def test_latencies_belong_to_the_change_they_arrived_in() -> None:
    records = [record(at, latency) for at, latency in ((0.5, 10.0), (2.0, 3000.0), (6.5, 20.0))]
    changes = [
        trust.Change("code", 1.0, 2.0),
        trust.Change("model", 6.0, 1.0),
        trust.Change("code", 20.0, 4.0),
    ]
    account = trust.by_kind(changes, records)
    assert account["kinds"] == {"code": 2, "model": 1}
    assert account["mean_s"] == {"code": 3.0, "model": 1.0}
    assert account["max_ms_by_kind"] == pytest.approx({"code": 3000.0, "model": 20.0})
