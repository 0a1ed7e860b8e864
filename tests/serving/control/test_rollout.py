"""How the threads of a plan, and the pools of its steps, reach its replicas."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from mlkit import pipeline, resource, step
from mlkit.plan import Cost, Profile, plan
from mlkit.serving.bundle import pack, unpack
from mlkit.serving.control.protocol import DeployApp, ScaleApp
from mlkit.serving.control.records import AppSpec
from mlkit.serving.control.rollout import Environment, rollout
from mlkit.serving.kernel.settings import Scaled, scaled, settings_of, spec_of
from mlkit.serving.limits import Limits

from .conftest import run


@step
def decode(x: int) -> int:
    return x


@step(stage="models", num_replicas=3)
def look(x: int) -> int:
    return x


@pipeline
def seen(x: int) -> int:
    return look(decode(x))


class _Anywhere(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key


@pytest.fixture
def spec(session: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function: the specification of an app that is planned for twelve cores."""
    monkeypatch.delenv("MLKIT_THREADS", raising=False)
    monkeypatch.setattr(importlib.import_module("mlkit.plan.plan"), "cores", lambda: 12)
    monkeypatch.setattr("mlkit.plan.stage.cores", lambda: 12)

    def make(profile: Profile | None, **fields: Any) -> AppSpec:
        stages = [spec_of(part, session.store.put) for part in pack(plan(seen, profile=profile))]
        new: AppSpec = session.spec().model_copy(update={"stages": tuple(stages), **fields})
        return new

    return make


@pytest.fixture
def targets(spec: Any) -> Any:
    """Returns a function: what Serve is to run for such an app."""

    def make(profile: Profile | None, **fields: Any) -> Any:
        return rollout(spec(profile, **fields), Environment("", "", "/", _Anywhere()), None)

    return make


BUSY = Profile("seen", (), (Cost("decode", 3.75, 3.75, 0), Cost("look", 4, 4, 0)))
"""Both stages compute for as long, SERVING_MS included."""

PROFILE = Profile("seen", (), (Cost("decode", 1.75, 1.75, 1.75), Cost("look", 16, 4, 0)))


def origins(rolled: Any) -> list[dict[str, str | None]]:
    return [rolled.front.target.arguments[0].origin.variables] + [
        stage.target.arguments[1].variables for stage in rolled.stages
    ]


def test_models_and_workers_of_a_replica_have_its_part_of_the_cores(targets: Any) -> None:
    rolled = targets(PROFILE)
    assert origins(rolled) == [{"MLKIT_THREADS": "1"}, {"MLKIT_THREADS": "2"}]
    assert rolled.front.target.user_config["workers"] == 1
    assert rolled.front.target.options["num_replicas"] == 4
    assert rolled.stages[0].target.arguments[3] == 2 + 6  # three waits for each that computes
    assert rolled.stages[0].target.options["num_replicas"] == 3


def test_without_a_profile_nothing_is_set(targets: Any) -> None:
    rolled = targets(None)
    assert origins(rolled) == [{}, {}]
    assert rolled.front.target.user_config["workers"] is None


def test_what_the_user_sets_wins(targets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_THREADS", "5")  # replicas inherit it
    rolled = targets(PROFILE, workers=7)
    assert origins(rolled) == [{}, {}]
    assert rolled.front.target.user_config["workers"] == 7
    assert rolled.stages[0].target.arguments[3] == 7
    assert {part.target.user_config["max_busy_workers"] for part in rolled.all} == {None}


def test_another_number_of_threads_restarts_replicas(targets: Any) -> None:
    before, after = targets(PROFILE), targets(None)
    assert before.front.target.version != after.front.target.version
    assert before.stages[0].target.name != after.stages[0].target.name


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("name", ["num_replicas", "max_replicas"])
@pytest.mark.parametrize("stage", ["seen", "models"])
def test_scaled_replicas_share_the_cores_of_their_stage(
    session: Any, spec: Any, stage: str, name: str, count: int
) -> None:
    planned = plan(seen, profile=BUSY)
    options = {name: count} if name == "num_replicas" else {"min_replicas": 1, name: count}

    async def deployed_and_scaled() -> None:
        record = await session.call(DeployApp(spec=spec(BUSY)))
        now = scaled(Scaled(planned, Limits()), stage, options)
        await session.call(
            ScaleApp(
                app=record.app,
                generation=record.generation,
                settings={stage: settings_of(now.plan[stage], session.store.put)},
                limits=Limits(),
                batch_sizes={},
            )
        )

    run(deployed_and_scaled())
    applied = {t.kind: t for t, _, _ in session.cluster.applications.values()}
    target = applied["front" if stage == "seen" else "stage"]
    assert {**target.options, **target.options.get("autoscaling_config", {})}[name] == count
    parallelism = planned[stage].parallelism
    assert parallelism is not None
    assert parallelism.cores == 6
    assert target.user_config["max_busy_workers"] == max(1, 6 // count)
    assert {change.action for change in session.host.records["shop"].changes} <= {"kept", "scaled"}


def test_a_placement_is_not_told_of_replicas_that_were_scaled_since() -> None:
    planned = plan(seen, profile=PROFILE, num_replicas=2)
    assert "2 replicas" in planned.front.reason
    now = scaled(Scaled(planned, Limits()), "seen", {"num_replicas": 3})
    assert now.plan.front.reason == "answers HTTP"


class Drawer:
    """Stands for a pool of models."""

    routed_by = ("model_id",)


@step(stage="models")
def take(x: int, model_id: str, *, drawer: Drawer = resource(Drawer)) -> int:
    return x


@pipeline
def taken(x: int, model: str) -> int:
    return take(look(decode(x)), model)


def test_only_a_stage_with_a_pool_routes_calls_by_model(session: Any) -> None:
    packed = pack(plan(taken, options={"look": {"stage": "other"}}))
    remote = {node.step.name: node.step for node in unpack(packed[0].data).graphs["taken"]}
    assert (remote["take"].model, remote["look"].model) == ("in_1", None)
    stages = tuple(spec_of(part, session.store.put) for part in packed)
    spec = session.spec().model_copy(update={"stages": stages})
    rolled = rollout(spec, Environment("", "", "/", _Anywhere()), None)
    assert [stage.name for stage in rolled.all if stage.target.has_pools] == ["models"]
