"""Swaps of a resource on a cluster that is made up: what serves after each, in virtual time."""

from __future__ import annotations

import os

import pytest

from mlkit.errors import DeployConflict, DeployError
from mlkit.serving.control.records import AppState
from mlkit.serving.control.versions import KEPT
from mlkit.serving.limits import Limits

from .conftest import Session, run

KEY = "models.step_of_models.model"


def front(session: Session) -> dict:
    return session.cluster.applications["shop"][0].user_config


def stage(session: Session) -> dict:
    (target,) = (t for t, _, _ in session.cluster.applications.values() if t.kind == "stage")
    return target.user_config["versions"]


def digests(replaced: dict) -> list[str]:
    return [digest for _, digest in replaced.values()]


# ---- at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["models", "shop"])
def test_a_swapped_model_is_loaded_into_running_replicas(session, where) -> None:
    async def swap():
        first = await session.deploy()
        return first, await session.swap("m2", stage=where)

    first, record = run(swap())
    assert (record.state, record.generation, record.trial) == (AppState.SERVING, 2, None)
    assert record.version == front(session)["version"] != first.version
    actions = {change.stage: (change.action, change.why) for change in record.changes}
    assert actions[where] == ("new code in place", f"step_of_{where}.model swapped")
    built = {change.stage: change.built for change in record.changes}
    assert built == {"shop": (), "models": ()} | {where: (f"{where}.step_of_{where}.model",)}
    assert len(session.cluster.applications) == 2


def test_the_code_and_all_other_resources_stay_as_deployed(session) -> None:
    async def swap():
        first = await session.deploy()
        return first, await session.swap("m2")

    first, record = run(swap())
    assert record.spec.stages == first.spec.stages
    assert record.spec.replacements[KEY].digest == "m2"


def test_a_swap_to_the_deployed_model_is_what_was_deployed(session) -> None:
    async def there_and_back():
        first = await session.deploy()
        await session.swap("m2")
        return first, await session.swap("models-model-v1")

    first, record = run(there_and_back())
    assert record.version == first.version
    assert record.spec.replacements == {}


def test_a_swap_to_the_same_model_changes_nothing(session) -> None:
    async def twice():
        await session.deploy()
        first = await session.swap("m2")
        session.cluster.calls.clear()
        return first, await session.swap("m2")

    first, second = run(twice())
    assert (first.generation, first.version) == (second.generation, second.version)
    assert "apply" not in session.cluster.calls


def test_a_model_that_does_not_load_leaves_the_old_one_and_says_why(session) -> None:
    async def fail():
        first = await session.deploy()
        before = session.serving
        (old,) = stage(session)
        new = (await Probe(session).stage_version("m2"))[0]
        session.cluster.broken.add(new)
        with pytest.raises(DeployError, match="could not be loaded") as caught:
            await session.swap("m2")
        return first, before, old, caught.value

    first, before, old, error = run(fail())
    record = session.host.records["shop"]
    assert error.got == "ImportError: no"
    assert (record.state, record.generation, record.version) == (
        AppState.SERVING,
        1,
        first.version,
    )
    assert session.serving == before
    assert front(session)["routes"]["models"][2] == old
    assert [(v.how, v.error) for v in record.versions] == [
        ("deployed", ""),
        ("swapped", "ImportError: no"),
    ]
    with pytest.raises(DeployError, match="there is no earlier version"):
        run(session.roll_back())


class Probe:
    """Finds out the version that a swap would lead to, and undoes it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def stage_version(self, model: str, **shares: float) -> list[str]:
        before = set(stage(self.session))
        await self.session.swap(model, **shares)
        new = [version for version in stage(self.session) if version not in before]
        await self.session.delete()
        await self.session.deploy()
        return new


# ---- on trial -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [{"canary": 0.1}, {"shadow": 0.2}])
@pytest.mark.parametrize("where", ["models", "shop"])
def test_on_trial_both_versions_are_loaded_and_the_old_one_serves(session, where, shares) -> None:
    async def swap():
        first = await session.deploy()
        return first, await session.swap("m2", stage=where, **shares)

    first, record = run(swap())
    config = front(session)
    assert record.version == config["version"] == first.version
    assert record.trial.version == config["trial"]["version"] != first.version
    assert {k: config["trial"][k] for k in ("canary", "shadow")} == {
        "canary": 0.0,
        "shadow": 0.0,
        **shares,
    }
    assert record.spec == first.spec
    assert record.generation == 2
    if where == "models":
        served, tried = (each["routes"]["models"][2] for each in (config, config["trial"]))
        assert set(stage(session)) == {served, tried}
        assert digests(stage(session)[tried][2]) == ["m2"]
    else:
        assert digests(config["trial"]["replaced"]) == ["m2"]
        assert config["replaced"] == {}


@pytest.mark.parametrize("where", ["models", "shop"])
def test_what_is_promoted_is_the_version_that_was_on_trial(session, where) -> None:
    async def promote():
        await session.deploy()
        trial = (await session.swap("m2", stage=where, canary=0.1)).trial
        return trial, await session.promote()

    trial, record = run(promote())
    assert record.version == front(session)["version"] == trial.version
    assert (record.trial, front(session)["trial"]) == (None, None)
    assert {change.built for change in record.changes} == {()}  # it was loaded already


def test_a_trial_that_is_rolled_back_leaves_what_was_before(session) -> None:
    async def roll_back():
        first = await session.deploy()
        await session.swap("m2", canary=0.5)
        return first, await session.roll_back()

    first, record = run(roll_back())
    assert (record.version, record.trial, record.spec) == (first.version, None, first.spec)
    assert front(session)["trial"] is None
    assert {c.why for c in record.changes} == {"unchanged", "the trial ended"}


@pytest.mark.parametrize("promoted", [False, True])
def test_a_swap_and_a_promotion_are_rolled_back_once(session, promoted) -> None:
    async def roll_back():
        first = await session.deploy()
        await session.swap("m2", canary=0.5 if promoted else 0.0)
        if promoted:
            await session.promote()
        record = await session.roll_back()
        with pytest.raises(DeployError, match="no earlier version"):
            await session.roll_back()
        return first, record

    first, record = run(roll_back())
    assert record.version == first.version
    assert record.generation == (4 if promoted else 3)


def test_only_a_swap_is_refused_for_failing_on_a_recent_request(session) -> None:
    async def swap():
        checks = []
        for change in (session.deploy, lambda: session.swap("m2"), session.roll_back):
            await change()
            checks.append(front(session)["check"])
        return checks

    assert run(swap()) == [False, True, False]


def test_the_share_of_a_trial_can_grow(session) -> None:
    async def grow():
        await session.deploy()
        first = await session.swap("m2", canary=0.1)
        return first, await session.swap("m2", canary=0.5)

    first, second = run(grow())
    assert first.trial.version == second.trial.version
    assert front(session)["trial"]["canary"] == 0.5
    assert {change.built for change in second.changes} == {()}


def test_a_swap_on_trial_at_once_is_a_promotion(session) -> None:
    async def grow():
        await session.deploy()
        first = await session.swap("m2", canary=0.1)
        return first, await session.swap("m2")

    first, second = run(grow())
    assert (second.version, second.trial) == (first.trial.version, None)


def test_another_model_waits_until_the_trial_is_over(session) -> None:
    async def other():
        await session.deploy()
        record = await session.swap("m2", canary=0.1)
        for shares in ({}, {"canary": 0.1}):
            with pytest.raises(DeployError, match=f"{record.trial.version} is on trial"):
                await session.swap("m3", **shares)
        await session.roll_back()
        return await session.swap("m3", canary=0.1)

    run(other())
    tried = front(session)["trial"]["routes"]["models"][2]
    assert digests(stage(session)[tried][2]) == ["m3"]


def test_what_serves_cannot_be_on_trial(session) -> None:
    async def same():
        await session.deploy()
        with pytest.raises(DeployError, match="nothing differs"):
            await session.swap("models-model-v1", canary=0.1)

    run(same())


def test_a_trial_that_does_not_load_leaves_no_trial(session) -> None:
    async def fail():
        await session.deploy()
        (new,) = await Probe(session).stage_version("m2", canary=0.1)
        session.cluster.broken.add(new)
        with pytest.raises(DeployError, match="could not be loaded"):
            await session.swap("m2", canary=0.1)

    run(fail())
    record = session.host.records["shop"]
    assert (record.state, record.trial, front(session)["trial"]) == (AppState.SERVING, None, None)


def test_a_promotion_without_a_trial_is_refused(session) -> None:
    async def promote():
        await session.deploy()
        with pytest.raises(DeployError, match="no version is on trial"):
            await session.promote()

    run(promote())


# ---- others change the app meanwhile ------------------------------------------------------------


def test_a_swap_of_what_was_changed_meanwhile_is_a_conflict(session) -> None:
    async def stale():
        await session.deploy()
        await session.scale(1, models=2)
        with pytest.raises(DeployConflict, match="changed in the meantime"):
            await session.swap("m2", generation=1)

    run(stale())


@pytest.mark.parametrize("action", ["promote", "roll_back"])
def test_only_the_version_that_was_looked_at_is_promoted_or_rolled_back(session, action) -> None:
    async def stale():
        await session.deploy()
        seen = (await session.swap("m2", canary=0.1)).trial.version
        await session.roll_back()
        await session.swap("m3", canary=0.1)
        with pytest.raises(DeployConflict, match="another version is on trial"):
            await getattr(session, action)(seen)

    run(stale())


def test_scaling_changes_both_versions_of_a_trial(session) -> None:
    async def scale():
        await session.deploy()
        await session.swap("m2", canary=0.1)
        record = await session.scale(2, models=3)
        return record, await session.promote()

    record, promoted = run(scale())
    assert record.trial.canary == 0.1
    assert promoted.version == record.trial.version
    assert session.serving["models"][1] == 3


def test_a_limit_that_changes_during_a_trial_keeps_it(session) -> None:
    async def limit():
        await session.deploy()
        tried = await session.swap("m2", canary=0.1)
        changed = tried.spec.model_copy(update={"limits": Limits(max_ongoing_requests=3)})
        call = session.limits(changed.limits)
        return tried, await session.call(call)

    tried, record = run(limit())
    assert record.trial.replacements == tried.trial.replacements
    assert record.trial.version == front(session)["trial"]["version"] != tried.trial.version


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_deployment_ends_the_trial_and_undoes_swaps(session, version) -> None:
    async def deploy():
        first = await session.deploy("v1")
        await session.swap("m2")
        await session.swap("m3", canary=0.1)
        return first, await session.deploy(version)

    first, record = run(deploy())
    assert (record.trial, record.spec.replacements, front(session)["trial"]) == (None, {}, None)
    assert (record.version == first.version) is (version == "v1")


def test_a_deployment_that_fails_keeps_the_trial(session) -> None:
    async def fail():
        await session.deploy("v1")
        trial = (await session.swap("m2", canary=0.1)).trial
        session.cluster.broken.add("models-v2")
        with pytest.raises(DeployError):
            await session.deploy("v2")
        return trial

    trial = run(fail())
    record = session.host.records["shop"]
    assert (record.state, record.trial) == (AppState.SERVING, trial)
    assert front(session)["trial"]["version"] == trial.version


def test_models_of_versions_that_are_no_longer_kept_are_deleted_from_the_store(session) -> None:
    def stored() -> set[str]:
        files = list(session.store.folder.iterdir())
        for file in files:
            os.utime(file, (0, 0))
        kept = (file.read_bytes().decode() for file in files)
        return {text for text in kept if text.startswith("model ")}

    async def swap():
        await session.deploy(stages=())
        await session.swap("m2", stage="shop")
        await session.swap("m3", stage="shop", canary=0.1)
        seen = [stored()]
        await session.promote()
        seen.append(stored())
        for number in range(KEPT):
            await session.deploy(f"v{number + 2}", stages=())
        return [*seen, stored()]

    assert run(swap()) == [{"model m2", "model m3"}, {"model m2", "model m3"}, set()]
