"""A real app that scales: by a policy of a cell, to zero and back, each change with its reason."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from mlkit import batched_step, pipeline, step
from mlkit.errors import DeployError

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def scaling(live):
    """An app with a stage of its own that scales by itself, and reacts at once."""

    @step(
        stage="far",
        num_cpus=0.1,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 2,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 1.0,
        },
    )
    async def load(x: int) -> int:
        await asyncio.sleep(0.2)
        return x + 1

    @batched_step(max_batch_size=4)
    def double(xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    @pipeline
    def shop(x: int) -> int:
        return double(load(x))

    return live(shop)


def until(what, timeout_s=90.0):  # a replica takes ten seconds to start on a slow machine
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


def running(app):
    return app.status().stages["far"].get("RUNNING", 0)


def test_a_load_brings_replicas_with_the_reason_and_they_go_again(scaling):
    until(lambda: running(scaling) == 1)  # other tests may have left more, and decisions
    began = time.time()
    stop = threading.Event()

    def decided():
        decisions = scaling.scaling.decisions
        return [d for d in decisions if d.kind == "scaled" and d.at >= began]

    def ask(x):
        answers = []
        while not stop.is_set():
            answers.append(scaling(x) == 2 * (x + 1))
        return answers

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, x) for x in range(4)]
        try:
            until(lambda: running(scaling) == 2)
        finally:
            stop.set()
    assert all(answer for one in asked for answer in one.result())
    until(lambda: running(scaling) == 1)
    until(lambda: any(d.after == 1 for d in decided()))
    said = decided()
    assert said[0].stage == "far"
    assert "ongoing per replica, target 1, over 2 s" in said[0].why
    # One change leads to the next, and none is without a reason.
    assert all(a.after == b.before for a, b in pairwise(said))
    assert all(d.why for d in said)
    # What was put down is what Ray had.
    until(lambda: scaling.scaling.latest()["far"].ready == 1)
    assert scaling.scaling.latest()["far"].wanted == 1
    assert max(c.ready for c in scaling.scaling.counts if c.stage == "far") == 2
    frame = scaling.scaling.to_frame()
    assert list(frame.columns) == ["time", "stage", "kind", "from", "to", "why"]


def test_a_policy_of_a_cell_and_one_that_replaces_it(scaling):
    scaling.scale("load", policy=lambda told: 2)
    until(lambda: running(scaling) == 2)
    assert "<lambda> wants 2" in [d.why for d in scaling.scaling.decisions]
    changed = scaling.scale("load", policy=None)
    assert {c.stage: c.action for c in changed} == {"shop": "kept", "far": "scaled"}
    until(lambda: running(scaling) == 1)


def test_replicas_that_were_set_by_hand_are_told_too(scaling):
    scaling.scale("load", num_replicas=2)
    until(lambda: scaling.scaling.latest()["far"].ready == 2)
    until(lambda: any(d.why == "set manually" for d in scaling.scaling.decisions))
    by_hand = [d for d in scaling.scaling.decisions if d.why == "set manually"][-1]
    assert (by_hand.stage, by_hand.before, by_hand.after) == ("far", 1, 2)


def test_zero_and_back_loses_no_request(scaling):
    scaling.scale(
        "load",
        min_replicas=0,
        max_replicas=2,
        target_ongoing_requests=1,
        upscale_delay_s=0.0,
        downscale_delay_s=1.0,
        downscale_to_zero_delay_s=0.5,
    )
    until(lambda: running(scaling) == 0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scaling, range(4))) == [2, 4, 6, 8]
    until(
        lambda: any(
            d.why == "a request arrived while no replica was running"
            for d in scaling.scaling.decisions
        )
    )


def test_batches_and_admission_change_while_it_runs(scaling):
    changes = scaling.scale("double", max_batch_size=2)
    assert "max_batch_size of double → 2" in {c.stage: c.why for c in changes}["shop"]
    assert scaling(1) == 4
    scaling.scale("shop", max_ongoing_requests=1)
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(scaling, x) for x in range(8)]
    answers = [getattr(one.exception(), "http_status", 200) for one in found]
    assert set(answers) == {200, 503}
    scaling.scale("shop", max_ongoing_requests=256)
    with pytest.raises(DeployError, match="no stage or step"):
        scaling.scale("nobody", 2)
    assert scaling(1) == 4
