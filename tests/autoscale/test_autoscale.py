"""Policies, and what becomes of what they want: on made-up signals and a made-up clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlkit.autoscale import (
    Decider,
    Decision,
    Scaling,
    ScalingConfig,
    ScalingLog,
    Signals,
    Wanted,
    highest,
    on_cpu,
    on_gpu,
    on_latency,
    on_ongoing_requests,
)
from mlkit.errors import DefinitionError


def signals(ready: int = 1, ongoing: float = 0.0, **more: Any) -> Signals:
    defaults: dict[str, Any] = {
        "current_time": 1000.0,
        "current_num_replicas": ready,
        "target_num_replicas": ready,
        "total_num_requests": ongoing,
        "capacity_adjusted_max_replicas": 8,
        "config": ScalingConfig(max_replicas=8),
    }
    return Signals(**{**defaults, **more})


class Stage:
    """A stage whose replicas are there as soon as they are wanted."""

    def __init__(self, policy: Any = None, least: int = 1, most: int = 8, **config: Any) -> None:
        self.config = ScalingConfig(min_replicas=least, max_replicas=most, **config)
        self.decider = Decider("load", self.config, policy, name="mine")
        self.state: dict[str, Any] = {}
        self.replicas = 1
        self.at = 1000.0
        self.said: list[Decision] = []

    def see(self, after_s: float, **more: Any) -> int:
        self.at += after_s
        told = signals(
            self.replicas,
            current_time=self.at,
            config=self.config,
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=self.state.get("user", {}),
            **more,
        )
        self.replicas, self.state, found = self.decider.decide(told, self.state)
        self.said += found
        return self.replicas

    @property
    def words(self) -> list[str]:
        return [f"{d.kind} {d.before} → {d.after}: {d.why}" for d in self.said]


def test_ongoing_requests_scale_in_proportion_and_say_so() -> None:
    stage = Stage(upscale_delay_s=0.0)
    assert stage.see(0, ongoing=7.4) == 4
    assert stage.words == ["scaled 1 → 4: 7.4 ongoing per replica, target 2, over 2 s"]
    assert "load 1 → 4" in str(stage.said[0])


def test_more_must_be_wanted_for_the_upscale_delay() -> None:
    stage = Stage(upscale_delay_s=3.0)
    assert stage.see(0, ongoing=6) == 1
    assert stage.see(1.0, ongoing=6) == 1
    assert stage.see(1.9, ongoing=6) == 1
    assert stage.see(0.1, ongoing=6) == 3
    assert [d.kind for d in stage.said] == ["held", "scaled"]
    assert "upscale_delay_s has 2 s to go" in stage.said[0].why
    assert stage.said[1].why.endswith("for 3 s")


def test_a_lull_starts_the_delay_anew() -> None:
    stage = Stage(upscale_delay_s=3.0)
    stage.see(0, ongoing=6)
    stage.see(2, ongoing=2)
    assert stage.see(2, ongoing=6) == 1
    assert stage.see(3, ongoing=6) == 3


def test_fewer_are_held_back_with_what_is_left_of_the_delay() -> None:
    stage = Stage(upscale_delay_s=0.0, downscale_delay_s=40.0)
    stage.see(0, ongoing=8)
    assert stage.see(1, ongoing=2) == 4
    assert len(stage.said) == 1  # it may be a dip
    stage.see(2, ongoing=2)
    assert "held 4 → 4: downscale_delay_s has 38 s to go" in stage.words[-1]
    stage.see(18, ongoing=2)
    assert len(stage.said) == 2  # it was said
    assert stage.see(20, ongoing=2) == 1
    assert stage.words[-1].startswith("scaled 4 → 1: 0.5 ongoing per replica")


def test_the_last_replica_goes_alone_after_its_own_delay() -> None:
    stage = Stage(
        least=0, upscale_delay_s=0.0, downscale_delay_s=5.0, downscale_to_zero_delay_s=60.0
    )
    stage.see(0, ongoing=4)
    stage.see(1, ongoing=0)
    assert stage.see(5, ongoing=0) == 1
    stage.see(0.1, ongoing=0)
    assert stage.see(59, ongoing=0) == 1
    assert stage.see(1, ongoing=0) == 0
    assert "downscale_to_zero_delay_s" in " ".join(stage.words)


def test_what_serve_changes_by_itself_is_put_down() -> None:
    stage = Stage(least=0)
    stage.see(0, ongoing=1)
    stage.replicas, stage.state = 0, {**stage.state, "wanted": 0}
    stage.replicas = 1  # Serve does that as soon as a request waits
    stage.see(1, ongoing=1)
    assert stage.words[-1] == "scaled 0 → 1: a request arrived while no replica was running"


def test_a_bound_is_named_once() -> None:
    stage = Stage(most=2, upscale_delay_s=0.0)
    assert stage.see(0, ongoing=20) == 2
    assert stage.words[-1].endswith("; bounded by max_replicas 2")
    stage.see(1, ongoing=20)
    assert len(stage.said) == 1
    full = Stage(most=1)
    full.see(0, ongoing=20)
    full.see(1, ongoing=20)
    assert [d.kind for d in full.said] == ["limited"]
    assert "wants 10, bounded by max_replicas 1" in full.said[0].why


def test_factors_work_as_in_serve() -> None:
    assert Stage(upscale_delay_s=0.0, upscaling_factor=0.5).see(0, ongoing=10) == 3
    slow = Stage(upscale_delay_s=0.0, downscale_delay_s=0.0, downscaling_factor=0.1)
    slow.replicas = 4
    assert slow.see(0, ongoing=2) == 3  # it does not stick


def test_a_policy_that_raises_changes_nothing_and_is_named() -> None:
    def broken(told: Signals) -> float:
        return 1 / 0

    stage = Stage(broken)
    assert stage.see(0, ongoing=20) == 1
    assert stage.see(1, ongoing=20) == 1
    assert stage.words == [
        "failed 1 → 1: mine raised ZeroDivisionError: division by zero; target remains 1"
    ]


@pytest.mark.parametrize("answer", ["three", None, float("nan"), True, (1, 2, 3)])
def test_an_answer_that_is_no_number_changes_nothing(answer: Any) -> None:
    stage = Stage(lambda told: answer)
    assert stage.see(0) == 1
    assert stage.said[0].kind == "failed"
    assert "a policy returns a number of replicas" in stage.said[0].why


def test_a_policy_written_for_serve_keeps_its_state() -> None:
    def counting(ctx: Any) -> tuple[int, dict[str, Any]]:
        seen = ctx.policy_state.get("seen", 0) + 1
        return seen, {"seen": seen}

    stage = Stage(counting, upscale_delay_s=0.0)
    assert [stage.see(1) for _ in range(3)] == [1, 2, 3]
    assert stage.words[-1] == "scaled 2 → 3: mine wants 3"


def test_serves_own_policy_runs_on_signals() -> None:
    serve = pytest.importorskip("ray.serve.autoscaling_policy")
    policy = serve.replica_queue_length_autoscaling_policy
    assert Stage(policy, upscale_delay_s=0.0).see(0, ongoing=6) == 3


def readings(rate: float, **values: float) -> dict[str, Any]:
    return {"latest": {"rate": {"a": rate}, **{name: {"a": v} for name, v in values.items()}}}


def test_latency_over_its_objective_asks_for_more_and_never_for_twice_as_many() -> None:
    policy = on_latency(p95_ms=100)
    assert policy(signals(2, 8, **readings(50, p95_ms=150))).replicas == 3
    assert policy(signals(2, 8, **readings(50, p95_ms=900))).replicas == 4
    assert policy(signals(2, 8, **readings(50, p95_ms=150))).why == "p95 150 ms, objective 100 ms"


def test_latency_that_more_replicas_would_not_help_stays() -> None:
    found = on_latency(p99_ms=100)(signals(2, 0.8, **readings(5, p99_ms=150)))
    assert found.replicas == 2
    assert "more replicas would not help" in found.why


def test_latency_far_below_its_objective_gives_one_back_if_the_others_can_take_it() -> None:
    policy = on_latency(p50_ms=100)
    assert policy(signals(3, 2, **readings(50, p50_ms=20))).replicas == 2
    assert policy(signals(3, 9, **readings(50, p50_ms=20))).replicas == 3
    assert policy(signals(3, 2, **readings(50, p50_ms=80))).replicas == 3
    assert policy(signals(3, 0, **readings(0))).replicas == 0
    assert policy(signals(3, 5, **readings(0))).replicas == 3  # none answered, though some wait
    assert policy(signals(3, 0)).replicas == 3  # nobody says
    assert "observe=False" in policy(signals(3, 0)).why


def test_latency_of_several_replicas_is_weighted_by_their_calls() -> None:
    latest = {"rate": {"a": 30.0, "b": 10.0}, "p95_ms": {"a": 100.0, "b": 200.0}}
    assert signals(2, latest=latest).latency_ms(95) == pytest.approx(125)


def test_processor_use_is_a_share_of_what_the_replica_was_given() -> None:
    half = replace(signals(2, **readings(50, cpu=0.4)), config=ScalingConfig(num_cpus=0.5))
    assert on_cpu(0.4)(half).replicas == pytest.approx(4)
    assert on_cpu(0.5)(signals(2)).replicas == 2


def test_gpu_use_is_a_share_of_what_the_replica_was_given() -> None:
    assert on_gpu(0.5)(signals(2, **readings(50, gpu=1.0))).replicas == 4
    # Three that share one GPU and keep it busy want as many as they did when they were one.
    quarter = ScalingConfig(num_gpus=0.25)
    three = replace(signals(3, **readings(50, gpu=0.3)), config=quarter)
    one = replace(signals(1, **readings(50, gpu=0.9)), config=quarter)
    assert on_gpu(0.9)(three).replicas == pytest.approx(on_gpu(0.9)(one).replicas)
    assert on_gpu(0.9)(three).why == "0.30 of 0.25 GPU used per replica, target 90%"
    assert "mlkit[gpu]" in on_gpu()(signals(2)).why


def test_what_keeps_a_policy_from_acting_is_said_once_a_minute() -> None:
    stage = Stage(on_gpu())
    stage.see(0)
    stage.see(2)
    assert stage.words == []  # the first readings are on their way
    for _ in range(40):
        stage.see(2)
    (first, again) = stage.said
    assert first.kind == "held"
    assert "no replica reported its GPU use" in first.why
    assert again.at - first.at >= 60
    stage.see(2, **readings(50, gpu=0.7))
    stage.see(2)
    assert len(stage.said) == 2


def test_latency_that_replicas_do_not_help_is_said() -> None:
    stage = Stage(on_latency(p99_ms=100))
    for _ in range(4):
        stage.see(2, ongoing=0.8, **readings(5, p99_ms=150))
    (said,) = stage.said
    assert (said.kind, said.before, said.after) == ("held", 1, 1)
    assert "more replicas would not help" in said.why


def test_the_highest_of_several_wins_with_its_own_reason() -> None:
    both = highest(on_ongoing_requests(2), on_latency(p95_ms=100))
    found = both(signals(1, 2, **readings(50, p95_ms=180)))
    assert (found.replicas, found.why) == (pytest.approx(1.8), "p95 180 ms, objective 100 ms")


@pytest.mark.parametrize(
    "make",
    [
        lambda: on_latency(),
        lambda: on_latency(p50_ms=1, p95_ms=2),
        lambda: on_latency(p99_ms=-1),
        lambda: on_cpu(0),
        lambda: on_ongoing_requests(float("nan")),
        lambda: highest(),
    ],
)
def test_what_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(DefinitionError):
        make()


def test_a_name_nobody_knows_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="signals have no 'weather'"):
        _ = signals().weather


def test_the_log_is_read_on_by_number_and_survives_a_restart() -> None:
    log, mine = ScalingLog(), Scaling()
    decision = Decision(1.0, "load", "scaled", 1, 3, "because")
    log.push([decision.to_dict()], [{"at": 1.0, "stage": "load", "wanted": 3, "ready": 1}])
    found = log.since(0)
    mine.add(found)
    assert log.since(found["last"])["decisions"] == []
    assert list(mine.decisions) == [decision]
    assert mine.latest()["load"].wanted == 3
    assert mine.to_frame().iloc[0]["to"] == 3
    assert mine.replicas().iloc[0]["ready"] == 1
    assert "because" in mine._repr_html_()
    assert len(ScalingLog().since(found["last"])["decisions"]) == 0
    assert repr(Scaling()) == "nothing was decided yet"


def test_wanted_without_a_reason_gets_one() -> None:
    stage = Stage(lambda told: Wanted(2), upscale_delay_s=0.0)
    stage.see(0)
    assert stage.words == ["scaled 1 → 2: mine wants 2"]
