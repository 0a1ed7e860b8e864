"""Versions of an app and rollbacks to them, on a cluster that is made up."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import DeployConflict, DeployError
from mlkit.serving.bundle import Origin
from mlkit.serving.control.records import AppRecord, AppState, AppVersion
from mlkit.serving.control.versions import (
    KEPT,
    KEPT_FAILED,
    before,
    entered,
    failed,
    named,
    scaled,
)
from mlkit.serving.limits import Limits

from .conftest import run


def served(session) -> list[tuple[str, bool]]:
    """The code of each version, and whether it was rolled back from."""
    record = session.host.records["shop"]
    return [
        (v.spec.stages[0].digest.removeprefix("shop-"), v.left) for v in record.versions if v.spec
    ]


# ---- deployments --------------------------------------------------------------------------------


def test_a_deployment_is_rolled_back_to_the_one_before_with_its_plan(session) -> None:
    async def back():
        first = await session.deploy("v1")
        await session.deploy("v2")
        return first, await session.roll_back()

    first, record = run(back())
    assert (record.version, record.spec, record.generation) == (first.version, first.spec, 3)
    assert {c.action for c in record.changes} == {"new code in place"}
    assert [v.how for v in record.versions] == ["deployed", "rolled back"]
    assert served(session) == [("v2", True), ("v1", False)]


def test_rollbacks_go_further_back_and_stop_at_the_first(session) -> None:
    async def back():
        for version in ("v1", "v2", "v3"):
            await session.deploy(version)
        seen = [(await session.roll_back()).spec.stages[0].digest for _ in range(2)]
        with pytest.raises(DeployError, match="no earlier version"):
            await session.roll_back()
        return seen

    assert run(back()) == ["shop-v2", "shop-v1"]


def test_a_deployment_after_a_rollback_is_not_rolled_back_to_what_was_left(session) -> None:
    async def back():
        for version in ("v1", "v2"):
            await session.deploy(version)
        await session.roll_back()
        await session.deploy("v3")
        return await session.roll_back()

    assert run(back()).spec.stages[0].digest == "shop-v1"


def test_what_was_left_can_be_named_and_the_way_back_from_it_is_kept(session) -> None:
    async def forth_and_back():
        await session.deploy("v1")
        second = await session.deploy("v2")
        await session.roll_back()
        again = await session.roll_back(to=second.version[:6])
        return second, again, await session.roll_back()

    second, again, last = run(forth_and_back())
    assert again.version == second.version
    assert last.spec.stages[0].digest == "shop-v1"


@pytest.mark.parametrize("name", ["", "0000", "zzzzzzzz"])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(session, name) -> None:
    async def refuse():
        record = await session.deploy("v1")
        with pytest.raises(DeployError) as caught:
            await session.roll_back(to=name)
        return record, caught.value

    record, error = run(refuse())
    assert session.host.records["shop"] == record
    if name:
        assert record.version in error.expected


def test_replicas_the_token_and_limits_of_a_swap_stay_as_they_are_now(session) -> None:
    async def back():
        await session.deploy("v1", token="first")
        record = await session.deploy("v2", token="second")
        await session.scale(record.generation, models=3)
        return await session.roll_back()

    record = run(back())
    assert record.spec.token == "second"  # one that was replaced may have leaked
    front = session.cluster.applications["shop"][0]
    assert front.user_config["routes"]["models"][2] == "models-v1"
    assert session.serving["models"][1] == 3


def test_the_environment_and_limits_of_a_deployment_come_back(session) -> None:
    async def back():
        origin = Origin("/home", (), variables={"MODE": "a"})
        first = await session.deploy("v1", origin=origin)
        await session.deploy("v2", origin=Origin("/home", (), variables={"MODE": "b"}))
        await session.call(session.limits(Limits(max_ongoing_requests=3)))
        return first, await session.roll_back()

    first, record = run(back())
    assert (record.spec.origin, record.spec.limits) == (first.spec.origin, Limits())


def test_a_deployment_that_differs_in_its_replicas_only_is_no_version_of_its_own(session) -> None:
    async def twice():
        await session.deploy("v1")
        record = await session.scale(1, models=2)
        return record, await session.deploy("v1")

    record, again = run(twice())
    assert len(record.versions) == len(again.versions) == 1
    assert again.versions[0].spec == again.spec


def test_a_limit_renames_a_version_and_a_swap_is_undone_beside_it(session) -> None:
    async def back():
        first = await session.deploy()
        await session.swap("m2")
        limited = await session.call(session.limits(Limits(max_ongoing_requests=3)))
        return first, limited, await session.roll_back()

    first, limited, record = run(back())
    assert [v.version for v in limited.versions] == [first.version, limited.version]
    assert record.spec.replacements == {}
    assert record.spec.limits.max_ongoing_requests == 3
    assert len(record.versions) == 2


def test_while_a_version_is_on_trial_a_rollback_ends_the_trial_only(session) -> None:
    async def back():
        await session.deploy("v1")
        second = await session.deploy("v2")
        await session.swap("m2", canary=0.5)
        return second, await session.roll_back(), await session.roll_back()

    second, ended, before_it = run(back())
    assert (ended.version, ended.trial, ended.versions) == (second.version, None, second.versions)
    assert before_it.spec.stages[0].digest == "shop-v1"


def test_a_named_version_ends_a_trial_too(session) -> None:
    async def back():
        first = await session.deploy("v1")
        await session.deploy("v2")
        await session.swap("m2", canary=0.5)
        return first, await session.roll_back(to=first.version)

    first, record = run(back())
    assert (record.version, record.trial) == (first.version, None)


def test_a_rollback_of_what_was_deployed_meanwhile_is_a_conflict(session) -> None:
    async def stale():
        await session.deploy("v1")
        seen = (await session.deploy("v2")).version
        await session.deploy("v3")
        with pytest.raises(DeployConflict, match="another version is serving"):
            await session.roll_back(seen)

    run(stale())


def test_a_rollback_that_fails_leaves_what_served_and_is_listed(session) -> None:
    async def fail():
        await session.deploy("v1")
        record = await session.deploy("v2")
        session.cluster.broken.add("models-v1")
        # The stage still has its version before; a third deployment drops it.
        third = await session.deploy("v3")
        with pytest.raises(DeployError, match="the previous version keeps serving"):
            await session.roll_back(to=record.versions[0].version)
        return third

    third = run(fail())
    record = session.host.records["shop"]
    assert (record.state, record.version) == (AppState.SERVING, third.version)
    assert [v.error for v in record.versions] == ["", "", "", "ImportError: no"]


def test_what_a_version_needs_is_kept_in_the_store_as_long_as_it_is_listed(session) -> None:
    async def back():
        first = await session.deploy("v1")
        for version in ("v2", "v3"):
            for path in session.store.folder.iterdir():
                os.utime(path, (0, 0))
            await session.deploy(version)
        return first, await session.roll_back(to=first.version)

    first, record = run(back())
    assert record.version == first.version
    assert all(session.store.get(key) for key in record.objects)


# ---- updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["models", "shop"])
def test_an_update_goes_into_running_replicas_and_says_what_it_changed(session, where) -> None:
    async def update():
        await session.deploy()
        first = await session.update("0.7", stage=where)
        return first, await session.update("0.9", stage=where)

    first, second = run(update())
    changes = {c.stage: (c.action, c.why, c.built) for c in second.changes}
    why = f"step_of_{where}.threshold 0.7 → 0.9"
    assert changes[where] == ("new code in place", why, ())
    assert second.versions[-1].changed == f"{where}: {why}"
    assert [v.how for v in second.versions] == ["deployed", "updated", "updated"]
    assert f"step_of_{where}.threshold 0.5 → 0.7" in first.versions[-1].changed


def test_updates_are_rolled_back_one_by_one_and_undone_by_a_deployment(session) -> None:
    async def update():
        first = await session.deploy()
        await session.update("0.7")
        await session.update("0.9")
        texts = [
            [r.text for r in (await session.roll_back()).spec.replacements.values()]
            for _ in range(2)
        ]
        await session.update("0.8")
        return first, texts, await session.deploy()

    first, texts, record = run(update())
    assert texts == [["0.7"], []]
    assert record.version == first.version


def test_an_update_to_the_deployed_value_is_what_was_deployed(session) -> None:
    async def update():
        first = await session.deploy()
        await session.update("0.7")
        return first, await session.update("0.5")

    first, record = run(update())
    assert (record.version, record.spec.replacements) == (first.version, {})


# ---- the list, by itself ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    from .conftest import Session

    return Session(tmp_path_factory.mktemp("versions")).spec()


def entry(name: str, spec, **fields) -> AppVersion:
    return AppVersion(
        **{
            "version": name,
            "spec": spec,
            "since": 0.0,
            "how": "deployed",
            "changed": "",
            "deployment": 1,
            **fields,
        }
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deploy"), st.sampled_from("abcdefghijklmnop")),
            st.tuples(st.just("fail"), st.sampled_from("abcdefghijklmnop")),
            st.tuples(st.just("back"), st.just("")),
            st.tuples(st.just("back to"), st.sampled_from("abcdefghijklmnop")),
            st.tuples(st.just("scale"), st.sampled_from("uvwxyz")),
        ),
        max_size=40,
    )
)
def test_whatever_happens_what_serves_is_last_and_a_rollback_is_undone_by_its_name(
    spec, events
) -> None:
    versions: tuple[AppVersion, ...] = (entry("a", spec),)
    serving = "a"

    def record() -> AppRecord:
        return AppRecord(
            spec=spec,
            state=AppState.SERVING,
            generation=1,
            root=True,
            url="",
            base="",
            since=0.0,
            version=serving,
            versions=versions,
        )

    for action, name in events:
        target = None
        if action == "back":
            target = before(record())
        elif action == "back to":
            known = [v for v in versions if v.version == name and v.spec is not None]
            target = known[0] if known else None
        if action == "fail":
            versions = failed(versions, entry(name, None, error="no"))
        elif action == "scale":
            versions = scaled(versions, serving, entry(name, spec))
            serving = name
        elif action == "deploy":
            versions = entered(versions, serving, entry(name, spec))
            serving = name
        elif target is not None:
            left = serving
            versions = entered(versions, serving, entry(target.version, spec), target)
            serving = target.version
            if left != serving:  # the way forward stays open
                assert any(v.version == left for v in versions)
        ok = [v for v in versions if not v.error]
        assert (ok[-1].version, ok[-1].left) == (serving, False)
        assert len({v.version for v in ok}) == len(ok) <= KEPT
        assert sum(bool(v.error) for v in versions) <= KEPT_FAILED
        earlier = before(record())
        assert earlier is None or (earlier.version != serving and not earlier.left)


def test_a_version_is_named_by_its_first_digits_unless_several_have_them(spec) -> None:
    versions = tuple(entry(name, spec) for name in ("abcd1", "abcd2", "ffff3"))
    record = AppRecord(
        spec=spec,
        state=AppState.SERVING,
        generation=1,
        root=True,
        url="",
        base="",
        since=0.0,
        version="ffff3",
        versions=versions,
    )
    assert named(record, "ffff").version == "ffff3"
    assert named(record, "abcd1").version == "abcd1"
    with pytest.raises(DeployError, match="several versions"):
        named(record, "abcd")
    with pytest.raises(DeployError, match="no version"):
        named(record, "fff")
