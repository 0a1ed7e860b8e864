"""What a step may ask for of where it runs and how it is batched."""

import pickle
from typing import Any

import cloudpickle
import pytest

from mlkit.define import batched_step, step
from mlkit.define.fingerprint import fingerprint
from mlkit.define.options import AUTO, StepOptions
from mlkit.errors import DefinitionError


@batched_step(max_batch_size=4, num_gpus=0.5, stage="models", resources={"npu": 1})
def classify(xs: list[int]) -> list[int]:
    return xs


@step
def plain(x: int) -> int:
    return x


def test_options_are_held_and_amounts_are_rays() -> None:
    assert classify.options.to_dict() == {
        "stage": "models",
        "ray_actor_options": {"num_gpus": 0.5, "resources": {"npu": 1}},
        "max_batch_size": 4,
    }
    assert plain.options == StepOptions()


def test_a_size_that_nobody_gave_is_told_from_one_that_is_the_default() -> None:
    @batched_step
    def default(xs: list[int]) -> list[int]:
        return xs

    assert (default.max_batch_size, default.options.max_batch_size) == (8, None)
    given = default.with_options(max_batch_size=8)
    assert (given.max_batch_size, given.options.max_batch_size) == (8, 8)


def test_a_change_makes_a_copy_and_leaves_the_rest() -> None:
    changed = classify.with_options(num_cpus=2, max_batch_size=16)
    assert changed.options.to_dict() == {
        "stage": "models",
        "ray_actor_options": {"num_gpus": 0.5, "resources": {"npu": 1}, "num_cpus": 2},
        "max_batch_size": 16,
    }
    assert (classify.max_batch_size, changed.max_batch_size) == (4, 16)
    assert "num_cpus" not in classify.options.ray_actor_options
    assert changed.batch([1, 2]) == [1, 2]


def test_replicas_and_scaling_take_each_others_place() -> None:
    scaled = StepOptions(num_replicas=3).replace(autoscaling_config={"max_replicas": 5})
    assert scaled.num_replicas is None
    assert scaled.replace(num_replicas=2).autoscaling_config is None
    with pytest.raises(DefinitionError, match="exclude each other"):
        StepOptions(num_replicas=3, autoscaling_config={"max_replicas": 5})


def test_auto_is_serves_own_scaling_with_what_is_given_in_its_place() -> None:
    auto = StepOptions(num_replicas="auto")
    assert (auto.num_replicas, auto.autoscaling_config) == (None, AUTO)
    fewer = StepOptions(num_replicas="auto", autoscaling_config={"max_replicas": 4})
    assert fewer.autoscaling_config == {**AUTO, "max_replicas": 4}
    assert StepOptions(num_replicas=3).replace(num_replicas="auto") == auto
    assert plain.with_options(num_replicas="auto").options == auto


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_replicas": 0}, "num_replicas"),
        ({"num_replicas": "many"}, "num_replicas"),
        ({"num_replicas": True}, "num_replicas"),
        ({"max_ongoing_requests": 0}, "max_ongoing_requests"),
        ({"max_queued_requests": -2}, "max_queued_requests"),
        ({"max_replicas_per_node": 1.5}, "max_replicas_per_node"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"batch_wait_timeout_s": -1}, "batch_wait_timeout_s"),
        ({"split_failed_batches": "no"}, "split_failed_batches"),
        ({"health_check_period_s": float("nan")}, "health_check_period_s"),
        ({"graceful_shutdown_timeout_s": float("inf")}, "graceful_shutdown_timeout_s"),
        ({"stage": "a b"}, "stage"),
        ({"autoscaling_config": 3}, "autoscaling_config"),
        ({"ray_actor_options": 3}, "ray_actor_options"),
        ({"ray_actor_options": {"num_cpus": -1}}, "num_cpus"),
        ({"ray_actor_options": {"memory": "1G"}}, "memory"),
        ({"ray_actor_options": {"resources": [1]}}, "resources"),
        ({"ray_actor_options": {"resources": {"npu": -1}}}, r"resources\['npu'\]"),
        ({"ray_actor_options": {"runtime_env": "env"}}, "runtime_env"),
        ({"ray_actor_options": {"accelerator_type": 3}}, "accelerator_type"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_built(options: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        StepOptions(**options)


def test_unknown_names_are_told_with_those_there_are() -> None:
    with pytest.raises(DefinitionError, match="no option 'replicas'") as caught:
        classify.with_options(replicas=3)  # type: ignore[call-arg]
    assert caught.value.where == "step 'classify'"
    assert {"num_replicas", "num_gpus"} <= set((caught.value.expected or "").split(", "))
    with pytest.raises(DefinitionError, match="no ray_actor_option 'gpus'") as caught:
        StepOptions(ray_actor_options={"gpus": 1})
    assert "num_gpus" in (caught.value.expected or "")


@pytest.mark.parametrize(
    "option",
    [{"max_batch_size": 2}, {"batch_wait_timeout_s": 0.1}, {"split_failed_batches": False}],
)
def test_batches_of_a_step_without_batches_are_refused(option: Any) -> None:
    with pytest.raises(DefinitionError, match=r"not batched[^.]*\n.*@batched_step"):
        plain.with_options(**option)
    with pytest.raises(DefinitionError, match="not batched"):
        step(**option)(plain.fn)


def test_options_travel_with_the_step_and_by_themselves() -> None:
    def local(xs: list[int]) -> list[int]:
        return xs

    made = batched_step(local).with_options(batch_wait_timeout_s=0.25, memory=100)
    again = cloudpickle.loads(cloudpickle.dumps(made))
    assert again.options == made.options
    assert pickle.loads(pickle.dumps(made.options)) == made.options


@pytest.mark.parametrize(
    "option",
    [{"max_batch_size": 5}, {"batch_wait_timeout_s": 0.1}, {"split_failed_batches": False}],
)
def test_how_it_is_batched_counts_in_its_fingerprint(option: Any) -> None:
    assert fingerprint(classify.with_options(**option)) != fingerprint(classify)


@pytest.mark.parametrize(
    "option", [{"num_gpus": 1}, {"stage": "others"}, {"num_replicas": 3}, {"memory": 10}]
)
def test_where_it_runs_does_not(option: Any) -> None:
    assert fingerprint(classify.with_options(**option)) == fingerprint(classify)
