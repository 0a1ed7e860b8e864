"""Items through Serve: they arrive as they are made; leaving a loop closes the generator."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mlkit import pipeline, step
from mlkit.errors import RequestError
from mlkit.load import closed, load_test
from mlkit.serving.http.stream import EVENTS

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]


def wait_for(path: Path) -> None:
    until = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until, f"no {path.name}"
        time.sleep(0.01)


def counting_up_by(difference):
    """A pipeline whose generator waits for a file before each item but the first."""

    @step(stage="far", num_cpus=0.1)
    def count(folder: str, items: int, fail_at: int = -1) -> Iterator[int]:
        try:
            for i in range(items):
                until = time.monotonic() + 20
                while i and not Path(folder, f"item-{i}").exists():
                    if time.monotonic() > until:
                        raise TimeoutError
                    time.sleep(0.005)
                if i == fail_at:
                    raise ValueError("no more")
                yield i * difference
        finally:
            Path(folder, "closed").touch()

    @pipeline
    def shop(folder: str, items: int, fail_at: int = -1) -> Iterator[int]:
        return count(folder, items, fail_at)

    return shop


@pytest.fixture(scope="module")
def counting(live):
    """The app, whose items pass two processes and HAProxy."""
    return live(counting_up_by(1))


def test_a_load_test_and_the_metrics_agree_on_the_items(counting, tmp_path):
    (tmp_path / "item-1").touch()
    before = _counted(counting)
    payload = {"folder": str(tmp_path), "items": 2}
    result = load_test(
        counting, [payload], closed(concurrency=2), duration_s=0.5, warmup_s=0, progress=False
    )
    assert result.errors == {}
    requests, items = len(result), result.summary()["items"]
    assert items == 2 * requests
    until = time.monotonic() + 10
    while _counted(counting) != tuple(count + requests for count in before):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert any("first item after" in str(trace) for trace in counting.slowest(500))


def _counted(app):
    samples = app.metrics.whole(900)
    return (
        sum(sample.first_items.count for sample in samples),
        sum(sample.between_items.count for sample in samples),
    )


def test_items_arrive_before_the_generator_ends(counting, tmp_path):
    received = []
    for item in counting.stream(str(tmp_path), 3):
        received.append(item)
        assert item == 2 or not (tmp_path / "closed").exists()
        (tmp_path / f"item-{item + 1}").touch()
    assert received == [0, 1, 2]
    wait_for(tmp_path / "closed")


def test_leaving_the_loop_closes_the_generator_in_the_replica(counting, tmp_path):
    for item in counting.stream(str(tmp_path), 10_000):
        assert item == 0
        break
    for i in range(1, 500):  # the generator is closed at an item after the client has left
        (tmp_path / f"item-{i}").touch()
        time.sleep(0.02)
        if (tmp_path / "closed").exists():
            break
    assert (tmp_path / "closed").exists()


def test_a_failure_midway_comes_after_the_items_before_it(counting, tmp_path):
    (tmp_path / "item-1").touch()
    (tmp_path / "item-2").touch()
    received = []
    with pytest.raises(RequestError) as raised:
        received.extend(counting.stream(str(tmp_path), 3, fail_at=2))
    assert received == [0, 1]
    assert raised.value.got == "ValueError: no more"
    assert counting.failures[-1].error == "ValueError: no more"


def test_other_clients_get_events(counting, tmp_path):
    headers = {"Accept": EVENTS, "Authorization": f"Bearer {counting.token}"}
    body = {"folder": str(tmp_path), "items": 2}
    with httpx2.stream("POST", counting.url, json=body, headers=headers) as response:
        lines = response.iter_lines()
        assert [next(lines), next(lines)] == ["event: item", "data: 0"]
        (tmp_path / "item-1").touch()
        assert [line for line in lines if line.startswith("event")] == ["event: item", "event: end"]


def test_a_stream_that_runs_ends_with_the_version_with_which_it_began(live, counting, tmp_path):
    before = counting.stream(str(tmp_path), 3)
    assert next(before) == 0
    app = live(counting_up_by(2))
    assert {c.stage: c.action for c in app.changes}["far"] == "new code in place"
    (tmp_path / "item-1").touch()
    (tmp_path / "item-2").touch()
    assert list(before) == [1, 2]
    assert app(str(tmp_path), 3) == [0, 2, 4]
