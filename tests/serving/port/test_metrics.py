"""What a real app counts: merged over its processes, and the time of each request."""

import time

import httpx2
import psutil
import pytest

from mlkit import batched_step, pipeline, step
from mlkit.errors import DeployError, InputError
from mlkit.load.records import parse_server_timing

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

REQUESTS = 60


@pytest.fixture(scope="module")
def counted(live):
    """An app with a stage of its own that was asked some times, and those answers."""

    @step
    def first(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        return x + 1

    @batched_step(max_batch_size=4, stage="second")
    def second(xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    @pipeline
    def counting(x: int) -> int:
        return second(first(x))

    app = live(counting)
    headers = {"Authorization": f"Bearer {app.token}"}
    with httpx2.Client(headers=headers) as client:
        asked = [client.post(app.url, json={"x": x}) for x in [*range(REQUESTS), -1]]
        until = time.monotonic() + 10
        while _seen(app) < len(asked) and time.monotonic() < until:
            time.sleep(0.1)
        yield app, asked, client
    app.shutdown()


def _seen(app):
    steps = app.metrics.to_frame(by="step")
    second = steps[steps["step"] == "second"]["requests"].sum()
    frame = app.metrics.to_frame()
    return frame["requests"].sum() if second >= REQUESTS else 0


def test_every_request_and_step_is_counted_once(counted):
    app, asked, _ = counted
    (whole,) = app.metrics.whole(600)
    assert whole.requests == len(asked)
    assert whole.status == {"200": REQUESTS, "500": 1}
    steps = {one.of: one for one in app.metrics.whole(600, by="step")}
    assert steps["first"].requests == len(asked)
    assert steps["first"].errors == 1
    assert steps["second"].requests == REQUESTS
    assert {one.of for one in app.metrics.whole(600, by="stage")} == {"counting", "second"}


def test_an_answer_says_where_its_time_went(counted):
    _, asked, _ = counted
    for answer in asked:
        times = parse_server_timing(answer.headers["server-timing"])
        phases = sum(
            times.get(name, 0) for name in ("queue", "batch", "compute", "transfer", "framework")
        )
        total = times["total"]
        assert abs(phases - total) <= max(1.0, 0.05 * total), times


def test_a_request_can_be_looked_at_afterwards(counted):
    app, asked, _ = counted
    id = asked[3].headers["x-request-id"]
    trace = app.trace(id)
    assert [span.step for span in trace.spans if not span.hop] == ["first", "second"]
    assert "second" in str(trace)
    assert "waiting for a worker" in trace._repr_html_()
    slowest = app.slowest(5)
    assert [one.total_s for one in slowest] == sorted((t.total_s for t in slowest), reverse=True)
    with pytest.raises(InputError, match="no request"):
        app.trace("unheard")


def test_prometheus_gets_the_counts_of_all_replicas_and_nobody_else_does(counted):
    app, _, client = counted
    text = client.get(f"{app._base}/metrics").text
    assert f'mlkit_requests_total{{pipeline="counting",status="200"}} {float(REQUESTS)}' in text
    assert f'stage="second",step="second"}} {float(REQUESTS)}' in text
    assert httpx2.get(f"{app._base}/metrics").status_code == 401


def test_a_step_can_be_looked_into(counted):
    app, _, _ = counted
    assert "no request arrived in time" in str(app.peek("second", timeout_s=0))
    deadline = time.monotonic() + 15
    while not len(found := app.peek("second", 2, timeout_s=0.0)):
        app(4)
        assert time.monotonic() < deadline
    assert found.samples[0]["inputs"] == [["xs", "5", []]]
    assert found.samples[0]["output"][0] == "10"
    with pytest.raises(DeployError, match="no step"):
        app.peek("third")


def test_the_time_outside_is_that_of_the_caller(counted):
    app, _, _ = counted
    app(7)
    deadline = time.monotonic() + 10
    while not (mine := [one for one in app.slowest(500) if one.outside_s is not None]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 0 < mine[0].outside_s < 5
    assert "outside" in str(mine[0])


def test_a_view_shows_what_was_counted(counted):
    app, _, _ = counted
    app(8)
    view = app.view(60)
    assert view.state == "serving"
    assert {row.stage for row in view.stages} == {"counting", "second"}
    assert "second" in view.html


def test_what_a_killed_replica_had_handed_on_is_not_lost(counted):
    app, _, client = counted
    before = app.metrics.whole(900)[0].requests
    for x in range(30):
        assert client.post(app.url, json={"x": x}).status_code == 200
    deadline = time.monotonic() + 10
    while app.metrics.whole(900)[0].requests < before + 30:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    front = [one for one in app.placement().replicas if one["stage"] == "counting"]
    psutil.Process(front[0]["pid"]).kill()
    deadline = time.monotonic() + 60
    while True:  # another one takes its place
        try:
            if client.post(app.url, json={"x": 1}, timeout=5).status_code == 200:
                break
        except httpx2.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1.2)
    assert app.metrics.whole(900)[0].requests >= before + 31
    text = client.get(app._base + "/metrics").text
    total = sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("mlkit_requests_total")
    )
    assert total >= before + 31
