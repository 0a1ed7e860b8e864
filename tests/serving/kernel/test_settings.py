"""Changing a running app and watching its replicas, without Ray: on plans and made-up findings."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from types import SimpleNamespace

import pytest

from mlkit import batched_step, pipeline, step
from mlkit.autoscale import on_cpu, on_latency
from mlkit.define.shipping import loads
from mlkit.errors import DefinitionError, DeployError
from mlkit.plan import plan
from mlkit.serving.control.autoscaling import autoscaling_settings, autoscaling_spec
from mlkit.serving.control.cluster import ReplicaCounts, missing
from mlkit.serving.control.records import StageSettings
from mlkit.serving.control.watch import Watch
from mlkit.serving.kernel.settings import Scaled, scaled, settings_of, with_settings
from mlkit.serving.limits import Limits
from mlkit.serving.port.spares import Spares


@step(stage="fetching")
def fetch(x: int) -> int:
    return x


@step
def clean(x: int) -> int:
    return x


@batched_step(max_batch_size=4)
def judge(xs: list[int]) -> list[int]:
    return xs


@pipeline
def shop(x: int) -> int:
    return judge(clean(fetch(x)))


@pytest.fixture
def now() -> Scaled:
    return Scaled(plan(shop), Limits())


def test_a_stage_is_found_by_its_name_and_by_its_only_step(now: Scaled) -> None:
    for name in ("fetching", "fetch"):
        assert scaled(now, name, {"num_replicas": 3}).plan["fetching"].num_replicas == 3
    assert now.plan["fetching"].num_replicas == 1


def test_a_step_that_shares_its_stage_is_an_error_that_names_the_way_out(now: Scaled) -> None:
    with pytest.raises(DeployError) as caught:
        scaled(now, "judge", {"num_replicas": 3})
    said = str(caught.value)
    assert "shares stage 'shop'" in said
    assert "clean" in said
    assert "app.scale('shop', ...)" in said
    assert "'stage': 'judge'" in said


def test_the_size_of_a_batch_is_the_steps_own(now: Scaled) -> None:
    assert scaled(now, "judge", {"max_batch_size": 9}).sizes == {"judge": 9}
    with pytest.raises(DeployError, match="batched steps only"):
        scaled(now, "clean", {"max_batch_size": 9})
    with pytest.raises(DefinitionError, match="invalid max_batch_size"):
        scaled(now, "judge", {"max_batch_size": 0})


def test_autoscaling_and_a_number_take_each_others_place(now: Scaled) -> None:
    auto = scaled(now, "fetch", {"max_replicas": 4})
    assert auto.plan["fetch"].autoscaling_config == {"min_replicas": 1, "max_replicas": 4}
    lower = scaled(auto, "fetch", {"target_ongoing_requests": 1})
    assert lower.plan["fetch"].autoscaling_config["max_replicas"] == 4
    fixed = scaled(lower, "fetch", {"num_replicas": 2})
    assert fixed.plan["fetch"].autoscaling_config is None
    with pytest.raises(DefinitionError, match="exclude"):
        scaled(now, "fetch", {"num_replicas": 2, "max_replicas": 4})
    with pytest.raises(DefinitionError, match="max_replicas is needed"):
        scaled(now, "fetch", {"target_ongoing_requests": 1})


def test_admission_is_the_fronts_limit_or_the_stages_option(now: Scaled) -> None:
    assert scaled(now, "shop", {"max_ongoing_requests": 7}).limits.max_ongoing_requests == 7
    stage = scaled(now, "fetch", {"max_ongoing_requests": 7, "max_queued_requests": 3})
    assert stage.plan["fetch"].options["max_queued_requests"] == 3
    assert stage.limits == now.limits


@pytest.mark.parametrize(
    ("name", "changes"),
    [("nobody", {"num_replicas": 1}), ("fetch", {}), ("fetch", {"colour": 1})],
)
def test_what_is_not_there_is_said(now: Scaled, name: str, changes: dict) -> None:
    with pytest.raises(DeployError, match=r"shop|fetch|colour"):
        scaled(now, name, changes)


@pytest.mark.parametrize("count", [0, 1.5, True, "auto", "two"])
def test_a_number_of_replicas_is_a_number(now: Scaled, count: object) -> None:
    with pytest.raises(DefinitionError):
        scaled(now, "fetch", {"num_replicas": count})


# ---- the configuration as data --------------------------------------------------------------


def settings(**config: object) -> tuple[StageSettings, dict[str, bytes]]:
    kept: dict[str, bytes] = {}

    def store(data: bytes) -> str:
        key = sha256(data).hexdigest()
        kept[key] = data
        return key

    return autoscaling_settings({"max_replicas": 4, **config}, "fetching", store), kept


def test_what_is_left_out_reacts_in_seconds() -> None:
    written, kept = settings()
    spec = autoscaling_spec(written, {"num_cpus": 0.5}, {})
    assert spec["metrics_interval_s"] <= 1
    assert spec["look_back_period_s"] <= 5
    assert (spec["num_cpus"], spec["num_gpus"], spec["max_replicas"]) == (0.5, 0.0, 4)
    assert not kept


def test_a_policy_travels_in_whatever_form_it_was_given() -> None:
    limit = 5

    def mine(told: object) -> int:
        return limit

    for policy in (mine, lambda told: limit, on_cpu(0.5), {"policy_function": mine}):
        written, kept = settings(policy=policy)
        assert callable(loads(kept[written.policy]))
    assert written.policy_name == "mine"
    written, kept = settings(policy={"policy_function": "mlkit.autoscale:on_cpu"})
    assert loads(kept[written.policy]) == on_cpu()


def test_a_policy_of_the_same_name_that_changed_is_another() -> None:
    one, two, same = (settings(policy=lambda told, n=n: n)[0] for n in (1, 2, 2))
    assert one.policy != two.policy == same.policy
    assert settings(policy=on_latency(p95_ms=1))[0] != settings(policy=on_latency(p95_ms=2))[0]


def test_a_plan_shows_the_settings_that_the_session_has(now: Scaled) -> None:
    kept: dict[str, bytes] = {}

    def store(data: bytes) -> str:
        key = sha256(data).hexdigest()
        kept[key] = data
        return key

    changed = scaled(now, "fetch", {"max_replicas": 4, "policy": on_cpu(0.5)})
    changed = scaled(changed, "shop", {"num_replicas": 2, "max_queued_requests": 3})
    stages = {
        stage.name: SimpleNamespace(name=stage.name, settings=settings_of(stage, store))
        for stage in changed.plan.stages
    }
    spec = SimpleNamespace(stages=tuple(stages.values()))
    assert with_settings(now.plan, spec, kept.__getitem__).stages == changed.plan.stages


@pytest.mark.parametrize(
    "config",
    [
        {"max_replica": 4},
        {"min_replicas": 5},
        {"max_replicas": 1.5},
        {"target_ongoing_requests": 0},
        {"upscale_delay_s": -1},
        {"look_back_period_s": float("nan")},
        {"policy": 3},
    ],
)
def test_a_configuration_that_cannot_be_is_refused_with_its_stage(config: dict) -> None:
    with pytest.raises(DefinitionError, match="fetching"):
        settings(**config)


# ---- watching -------------------------------------------------------------------------------


class Place:
    """A cluster that says what it is told to."""

    def __init__(self, scales: bool = True) -> None:
        self.at = 100.0
        self.found = ReplicaCounts(1, 1, 1)
        self.told: list = []
        self.counts: list = []
        self.settled = 0
        self.apps = {"shop": (scales, {"shop.fetching.1": "fetching"})}
        self.watch = Watch(
            lambda: self.apps,
            self.read,
            self.tell,
            self.settle,
            now=lambda: self.at,
        )

    async def read(self, stages: dict) -> dict:
        return dict.fromkeys(stages.values(), self.found)

    async def tell(self, app: str, decisions: list, counts: list) -> None:
        self.told += decisions
        self.counts += counts

    async def settle(self) -> None:
        self.settled += 1

    def look(self, after_s: float, found: ReplicaCounts) -> None:
        self.at, self.found = self.at + after_s, found
        asyncio.run(self.watch.look())


def test_counts_are_put_down_when_they_change() -> None:
    place = Place()
    place.look(1, ReplicaCounts(1, 1, 1))
    place.look(1, ReplicaCounts(1, 1, 1))
    place.look(1, ReplicaCounts(3, 1, 3))
    assert [(c.wanted, c.ready, c.starting) for c in place.counts] == [(1, 1, 0), (3, 1, 2)]
    assert place.settled == 2


def test_what_was_wanted_is_ready_after_some_seconds() -> None:
    place = Place()
    place.look(1, ReplicaCounts(1, 1, 1))
    place.look(1, ReplicaCounts(3, 1, 3))
    place.look(2, ReplicaCounts(3, 2, 3))
    place.look(0.5, ReplicaCounts(3, 3, 3))
    (said,) = place.told
    assert (said.kind, said.why) == ("ready", "3 ready, 2.5 s after the target was raised")


def test_an_app_that_is_deployed_anew_begins_anew() -> None:
    place = Place()
    place.look(1, ReplicaCounts(2, 1, 1))
    apps, place.apps = place.apps, {}
    place.look(600, ReplicaCounts(0, 0, 0))
    assert place.watch.wanted("shop", "fetching") == 0
    place.apps = apps
    place.look(3000, ReplicaCounts(2, 1, 1))
    place.look(2, ReplicaCounts(2, 2, 2))
    assert [(c.wanted, c.ready) for c in place.counts] == [(2, 1), (2, 1), (2, 2)]
    (said,) = place.told
    assert (said.kind, said.why) == ("ready", "2 ready, 2.0 s after the target was raised")


def test_replicas_without_a_place_are_blocked_and_what_they_lack_is_named_once() -> None:
    place = Place()
    full = ReplicaCounts(4, 1, 2, {"CPU": 1.0}, {"CPU": 0.5})
    place.look(1, full)
    assert not place.told  # it takes a moment to place one
    place.look(2, full)
    place.look(2, full)
    (said,) = place.told
    assert (said.kind, said.why) == ("blocked", "wanted 4, 1.5 CPUs missing")


def test_what_is_missing_in_words() -> None:
    assert missing(ReplicaCounts(2, 1, 1, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 4.0})) == "1 GPU"
    assert missing(ReplicaCounts(3, 1, 1, {"CPU": 1.0}, {})) == "2 CPUs"
    assert missing(ReplicaCounts(2, 1, 1, {"CPU": 1.0}, {"CPU": 2.0})) == ""


def test_an_app_that_does_not_scale_is_watched_while_somebody_asks() -> None:
    place = Place(scales=False)
    place.look(1, ReplicaCounts(1, 1, 1))
    assert not place.counts
    place.watch.request()
    place.look(1, ReplicaCounts(1, 1, 1))
    assert place.counts
    place.look(60, ReplicaCounts(2, 1, 1))
    assert len(place.counts) == 1
    assert not place.settled


def test_spares_are_made_up_and_given_up_where_it_cannot_be() -> None:
    at, idle, started = [0.0], [0], []
    free = [1.0]
    spares = Spares(
        2, idle=lambda: idle[0], free=lambda: free[0], start=started.append, now=lambda: at[0]
    )
    spares.keep()
    spares.keep()
    assert started == [1]  # one at a time
    at[0], idle[0] = 60.0, 1
    spares.keep()
    assert started == [1, 1]
    at[0], idle[0], free[0] = 120.0, 0, 0.2
    spares.keep()
    assert started == [1, 1]  # the machine is busy
    at[0], idle[0], free[0] = 180.0, 2, 1.0
    spares.keep()
    assert started == [1, 1]  # there are enough

    def refuse(count: int) -> None:
        raise OSError("no such call")

    broken = Spares(1, idle=lambda: 0, free=lambda: 1.0, start=refuse, now=lambda: at[0])
    broken.keep()
    at[0] = 240.0
    broken.keep()
