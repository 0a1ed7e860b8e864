"""Replicas and threads, chosen from cores, memory and the share that holds the interpreter."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from mlkit import pipeline, step
from mlkit.plan import Cost, Profile, place, plan
from mlkit.plan.machine import available_memory
from mlkit.plan.placement import NEAR_BEST, throughput

SHARES = [0.0, 0.02, 0.05, 0.1, 0.2, 0.31, 0.5, 0.8, 1.0]


@pytest.mark.parametrize("share", SHARES)
def test_a_thread_more_never_slows_a_process_and_never_beats_its_limits(share: float) -> None:
    rates = [throughput(share, 1 - share, threads) for threads in range(1, 65)]
    assert rates == pytest.approx(sorted(rates))
    for threads, rate in enumerate(rates, 1):
        assert rate <= threads + 1e-9
        assert share * rate <= 1 + 1e-9


def test_two_threads_wait_for_one_another_as_often_as_they_meet() -> None:
    # By hand: while one holds the interpreter, the other wants it half of the time.
    assert throughput(0.5, 0.5, 1) == 1
    assert throughput(0.5, 0.5, 2) == pytest.approx(1.6)


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 8, 16, 64])
@pytest.mark.parametrize("share", SHARES)
def test_threads_are_never_more_than_cores(cores: int, share: float) -> None:
    placement = place(share, 1 - share, cores=cores)
    assert 1 <= placement.replicas * placement.threads <= cores
    best = max(n * throughput(share, 1 - share, cores // n) for n in range(1, cores + 1))
    rate = placement.replicas * throughput(share, 1 - share, placement.threads)
    assert rate >= NEAR_BEST * best


@pytest.mark.parametrize("cores", [2, 8, 16, 64])
def test_the_more_holds_the_interpreter_the_more_replicas(cores: int) -> None:
    replicas = [place(share, 1 - share, cores=cores).replicas for share in SHARES]
    assert replicas == sorted(replicas)
    assert (replicas[0], replicas[-1]) == (1, cores)


def test_memory_limits_replicas_and_their_threads_take_the_cores() -> None:
    placement = place(0.5, 0.5, cores=8, memory=2.9e9, replica_memory=1e9)
    assert (placement.replicas, placement.threads) == (2, 4)
    assert str(placement) == (
        "2 replicas × 4 threads: 50% of a request holds the interpreter, and memory is short"
    )
    assert place(0.5, 0.5, cores=8, memory=0.5e9, replica_memory=1e9).replicas == 1
    assert place(0.5, 0.5, cores=8, memory=9e9, replica_memory=1e9).replicas == 8


def test_cpus_that_are_reserved_limit_replicas_as_well() -> None:
    placement = place(0.5, 0.5, cores=8, replica_cpus=2.5)
    assert (placement.replicas, placement.threads) == (3, 2)
    assert str(placement).endswith("2.5 CPUs are reserved for each")
    assert place(0.5, 0.5, cores=8, replica_cpus=0.25).replicas == 8


def test_calls_that_wait_have_threads_besides() -> None:
    assert place(0.1, 0.9, 3.0, cores=4).waiting == 12
    assert place(0.1, 0.9, 1e6, cores=4).waiting == 32


@pytest.mark.parametrize("replicas", [1, 2, 3, 8, 20])
def test_the_same_cores_are_shared_by_another_number_of_replicas(replicas: int) -> None:
    placement = place(0.1, 0.9, 1.0, cores=8)
    shared = placement.shared_by(replicas)
    assert shared.threads == max(1, 8 // replicas)
    assert shared.waiting == shared.threads  # a call waits for as long as it computes
    assert shared.shared_by(placement.replicas) == placement


# ---- in plans ------------------------------------------------------------------------------------


@step
def decode(x: int) -> int:
    return x


@step
def look(x: int) -> int:
    return x


@pipeline
def seen(x: int) -> int:
    return look(decode(x))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Eight cores and 10 GB."""
    has: dict[str, Any] = {"cores": 8, "memory": 10e9}
    module = importlib.import_module("mlkit.plan.plan")
    monkeypatch.setattr(module, "cores", lambda: has["cores"])
    monkeypatch.setattr("mlkit.plan.stage.cores", lambda: has["cores"])
    monkeypatch.setattr(module, "available_memory", lambda: has["memory"])
    return has


def measured(decode_ms: float = 1.85, look_ms: float = 4.9, memory: int = 10**9) -> Profile:
    costs = (Cost("decode", decode_ms, decode_ms, decode_ms), Cost("look", look_ms, look_ms, 0.0))
    return Profile("seen", (), costs, memory)


def test_a_plan_without_a_profile_places_nothing(machine: dict[str, Any]) -> None:
    planned = plan(seen)
    assert (planned.front.num_replicas, planned.front.workers, planned.front.threads) == (
        1,
        None,
        None,
    )
    assert repr(planned) == "<plan of seen: 1 stage, fused>"


def test_a_plan_with_a_profile_says_how_it_uses_the_cores(machine: dict[str, Any]) -> None:
    front = plan(seen, profile=measured()).front
    assert (front.num_replicas, front.threads, front.workers) == (4, 2, 2)
    said = "4 replicas × 2 threads: 30% of a request holds the interpreter"
    assert front.reason == f"answers HTTP; {said}"
    for text in map(str, (repr(plan(seen, profile=measured())), plan(seen, profile=measured()))):
        assert said in text
    machine["memory"] = 2.5e9
    assert plan(seen, profile=measured()).front.num_replicas == 2


def test_one_replica_with_all_cores_keeps_the_default_threads(machine: dict[str, Any]) -> None:
    front = plan(seen, profile=measured(decode_ms=0.0, look_ms=20.0)).front
    assert front.num_replicas == 1
    assert (front.threads, front.workers) == (None, None)


def test_the_users_number_of_replicas_wins_and_its_threads_share_the_cores(
    machine: dict[str, Any],
) -> None:
    front = plan(seen, profile=measured(), num_replicas=2).front
    assert (front.num_replicas, front.threads) == (2, 4)
    front = plan(seen, profile=measured(), options={"look": {"num_replicas": 1}}).front
    assert front.num_replicas == 1
    scaling = {"min_replicas": 1, "max_replicas": 4}
    front = plan(seen, profile=measured(), autoscaling_config=scaling).front
    assert (front.num_replicas, front.threads) == (None, 2)


def test_the_rule_never_asks_for_more_than_there_is(machine: dict[str, Any]) -> None:
    assert plan(seen, profile=measured(), ray_actor_options={"num_cpus": 4}).front.num_replicas == 2


def test_stages_share_the_cores_by_what_they_compute(machine: dict[str, Any]) -> None:
    planned = plan(seen, profile=measured(2.75, 5.0), options={"look": {"stage": "models"}})
    front, models = planned.stages
    assert (front.num_replicas, front.threads) == (3, 1)
    assert (models.num_replicas, models.threads) == (1, 5)
    assert models.reason == (
        "stage='models'; 1 replica × 5 threads: 0% of a request holds the interpreter"
    )


def test_a_gpu_stage_has_the_replicas_that_it_is_given(machine: dict[str, Any]) -> None:
    costs = (Cost("decode", 1, 1, 1), Cost("look", 9, 9, 9))
    planned = plan(seen, profile=Profile("seen", (), costs), options={"look": {"num_gpus": 1}})
    assert planned["look"].num_replicas == 1


def test_memory_is_what_the_container_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr("mlkit.plan.machine.CGROUP", tmp_path)
    unlimited = available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory() == pytest.approx(unlimited, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory() == 4000
