"""Apps of a session on a cluster that is made up: every decision, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
import time

import pytest

from mlkit.errors import DeployConflict, DeployError, SessionError
from mlkit.serving.bundle import Origin
from mlkit.serving.control.cluster import ApplicationTarget
from mlkit.serving.control.deployer import ROLLBACK_S, ROLLOUT_S
from mlkit.serving.control.protocol import About, DeployApp, StopSession
from mlkit.serving.control.records import AppState, StageSettings
from mlkit.serving.control.room import check_room
from mlkit.serving.control.versions import KEPT
from mlkit.serving.limits import Limits

from .conftest import START_S, run


def actions(record) -> dict[str, str]:
    return {change.stage: change.action for change in record.changes}


@pytest.fixture
def replayable(session):
    """Returns a function: the paths to which HAProxy may send a request twice."""
    return lambda: (session.host.folder / "replayable").read_text().split()


def test_haproxy_learns_which_requests_it_may_send_again(session, replayable) -> None:
    async def main() -> None:
        await session.deploy(idempotent=True)
        await session.deploy(app="books", stages=(), idempotent=False)
        assert replayable() == ["/shop"]
        await session.deploy(app="tags", stages=(), idempotent=True)
        assert replayable() == ["/shop", "/tags"]
        await session.delete("tags")
        assert replayable() == ["/shop"]

    run(main())


def test_what_is_no_longer_idempotent_is_never_sent_again_to_the_new_version(
    session, replayable
) -> None:
    async def main() -> None:
        await session.deploy(idempotent=True)
        change = asyncio.create_task(session.deploy(idempotent=False))
        await asyncio.sleep(START_S / 2)
        assert session.state is AppState.UPDATING
        assert replayable() == []
        record = await change
        assert actions(record)["shop"] == "restarted"  # so that HAProxy reloads
        assert replayable() == []
        change = asyncio.create_task(session.deploy(idempotent=True))
        await asyncio.sleep(START_S / 2)
        assert replayable() == []  # requests may still go to the old version
        await change
        assert replayable() == ["/shop"]

    run(main())


def test_a_change_that_fails_leaves_what_may_be_sent_again(session, replayable) -> None:
    async def main() -> None:
        await session.deploy(idempotent=True)
        session.cluster.broken.add("shop")
        with pytest.raises(DeployError):
            await session.deploy("v2", idempotent=False)
        assert replayable() == ["/shop"]

    run(main())


# ---- deploying ----------------------------------------------------------------------------------


def test_an_app_is_deployed_stages_first(session) -> None:
    record = run(session.deploy())
    assert (record.state, record.generation) == (AppState.SERVING, 1)
    assert actions(record) == {"shop": "started", "models": "started"}
    assert session.cluster.calls.index("status") < session.cluster.calls.index("reports")
    assert set(session.serving) == {"shop", "models"}
    assert record.url == "http://127.0.0.1:8123/shop"


def test_the_first_app_is_at_the_root_and_the_second_is_not(session) -> None:
    async def both():
        return await session.deploy(), await session.deploy(app="other", stages=())

    first, second = run(both())
    assert (first.root, first.base) == (True, "http://127.0.0.1:8123")
    assert (second.root, second.base) == (False, "http://127.0.0.1:8123/other")


def test_the_same_again_keeps_everything_and_tells_the_cluster_nothing(session) -> None:
    async def twice():
        first = await session.deploy()
        session.cluster.calls.clear()
        return first, await session.deploy()

    first, second = run(twice())
    assert actions(second) == {"shop": "kept", "models": "kept"}
    assert second.generation == first.generation
    assert "apply" not in session.cluster.calls


def test_changed_code_goes_into_running_replicas(session) -> None:
    async def twice():
        await session.deploy("v1")
        return await session.deploy("v2")

    record = run(twice())
    assert actions(record) == {"shop": "new code in place", "models": "new code in place"}
    assert record.generation == 2
    assert session.serving["models"][0] == "models-v2"


def test_a_changed_environment_variable_restarts_replicas_and_is_named_without_its_value(
    session,
) -> None:
    async def twice():
        await session.deploy(origin=Origin("/home", (), variables={"KEPT": "1"}))
        variables = {"API_KEY": "secret-value", "KEPT": "1"}
        return await session.deploy(origin=Origin("/home", (), variables=variables))

    record = run(twice())
    assert actions(record) == {"shop": "restarted", "models": "restarted"}
    assert {change.why for change in record.changes} == {"environment variables changed: API_KEY"}


def test_changed_logging_levels_restart_nothing(session) -> None:
    async def twice():
        await session.deploy(log_levels={"": 30})
        return await session.deploy(log_levels={"": 10, "shop": 20})

    record = run(twice())
    assert {c.action for c in record.changes} == {"reconfigured"}
    targets = [target for target, _, _ in session.cluster.applications.values()]
    assert [t.user_config["log_levels"] for t in targets] == [{"": 10, "shop": 20}] * 2


def test_a_stage_that_is_gone_is_deleted_after_the_change(session) -> None:
    async def fewer():
        await session.deploy("v1")
        return await session.deploy("v2", stages=())

    assert actions(run(fewer()))["models"] == "removed"
    assert set(session.serving) == {"shop"}


# ---- failing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["models", "models-v2", "crowded", "hang"])
def test_a_failed_deployment_leaves_what_was_there(session, fault) -> None:
    async def fail():
        await session.deploy("v1")
        before = session.serving
        if fault == "crowded":
            session.cluster.crowded.add("models")
        elif fault == "hang":
            session.cluster.hangs.add("reports")
            asyncio.get_running_loop().call_later(ROLLOUT_S, session.cluster.hangs.clear)
        else:
            session.cluster.broken.add(fault)
        with pytest.raises(DeployError) as caught:
            await session.deploy("v2")
        session.cluster.broken.clear()
        session.cluster.crowded.clear()
        return before, caught.value

    before, error = run(fail())
    if fault in ("models-v2", "hang"):  # else the rollback meets the same fault
        assert session.state is AppState.SERVING
    assert session.host.records["shop"].generation == 1
    assert session.serving["shop"] == before["shop"]
    words = {
        "models": "do not start",
        "models-v2": "could not be loaded",
        "crowded": "no resources",
        "hang": "took longer than",
    }
    assert words[fault] in str(error)


def test_one_of_many_replicas_that_rejects_the_new_version_fails_the_deployment(session) -> None:
    async def fail():
        many = StageSettings(num_replicas=3)
        first = await session.deploy("v1", settings=many)
        session.cluster.broken, session.cluster.rejecting = {"models-v2"}, {2}
        with pytest.raises(DeployError, match="could not be loaded"):
            await session.deploy("v2", settings=many)
        return first

    first = run(fail())
    assert session.host.records["shop"].version == first.version
    assert session.state is AppState.SERVING


def test_a_first_deployment_that_fails_leaves_nothing(session) -> None:
    session.cluster.broken.add("models")
    with pytest.raises(DeployError, match="do not start"):
        run(session.deploy())
    assert session.host.records == {}
    assert session.serving == {}


def test_a_rollback_that_hangs_is_given_up_and_the_next_deployment_goes_on(session) -> None:
    async def hang_twice():
        loop = asyncio.get_running_loop()
        await session.deploy("v1")
        began = loop.time()
        session.cluster.hangs.add("status")
        with pytest.raises(DeployError, match="the rollout took longer"):
            await session.deploy("v2")
        took_s, state = loop.time() - began, session.state
        session.cluster.hangs.clear()
        return took_s, state, await session.deploy("v3")

    took_s, state, record = run(hang_twice())
    assert took_s == pytest.approx(ROLLOUT_S + ROLLBACK_S, abs=5)
    assert state is AppState.ROLLING_BACK
    assert record.state is AppState.SERVING
    assert session.serving["models"][0] == "models-v3"


def test_a_deployment_that_hangs_keeps_nobody_from_asking(session) -> None:
    async def ask_meanwhile():
        await session.deploy("v1")
        session.cluster.hangs.add("apply")
        deploying = asyncio.ensure_future(session.deploy("v2"))
        await asyncio.sleep(1)
        health, state = await session.health(), session.state
        session.cluster.hangs.clear()
        deploying.cancel()
        await asyncio.gather(deploying, return_exceptions=True)
        return health, state

    health, state = run(ask_meanwhile())
    assert {status.state for status in health.values()} == {"RUNNING"}
    assert state is AppState.UPDATING


# ---- scaling ------------------------------------------------------------------------------------


def test_a_stage_is_scaled_and_nothing_else_is_touched(session) -> None:
    async def scale():
        record = await session.deploy()
        return await session.scale(record.generation, models=3)

    record = run(scale())
    assert actions(record) == {"shop": "kept", "models": "scaled"}
    assert session.serving["models"][1] == 3
    assert [d["why"] for d in session.telemetry.decisions] == ["set manually"]


def test_a_second_handle_does_not_undo_what_the_first_has_changed(session) -> None:
    async def two_handles():
        first = second = (await session.deploy(stages=("models", "words"))).generation
        first = (await session.scale(first, models=3)).generation
        with pytest.raises(DeployConflict, match="changed in the meantime"):
            await session.scale(second, words=2)
        return await session.scale(first, words=2)

    run(two_handles())
    assert (session.serving["models"][1], session.serving["words"][1]) == (3, 2)


def test_scaling_sends_neither_plan_nor_code_again(session) -> None:
    async def scale():
        record = await session.deploy()
        before = set(session.store.folder.iterdir())
        await session.scale(record.generation, models=3)
        return before

    assert run(scale()) == set(session.store.folder.iterdir())


def test_a_stage_hears_of_the_request_timeout_and_goes_on(session) -> None:
    async def change():
        await session.deploy()
        limits = Limits(request_timeout_s=5.0)
        spec = session.spec().model_copy(update={"limits": limits})
        return await session.call(DeployApp(spec=spec))

    assert actions(run(change())) == {"shop": "new code in place", "models": "kept"}
    (stage,) = (t for t, _, _ in session.cluster.applications.values() if t.kind == "stage")
    assert stage.user_config["request_timeout_s"] == 5.0


# ---- deleting -----------------------------------------------------------------------------------


def test_a_deleted_app_is_gone_and_cannot_be_scaled(session) -> None:
    async def delete():
        record = await session.deploy()
        remaining = await session.delete()
        with pytest.raises(DeployError, match="there is no such app"):
            await session.scale(record.generation, models=2)
        return remaining

    assert run(delete()) == []
    assert session.serving == {}
    assert session.telemetry.forgotten == ["shop"]


def test_deleting_waits_for_the_change_that_is_being_made(session) -> None:
    async def delete_meanwhile():
        deploying = asyncio.ensure_future(session.deploy())
        await asyncio.sleep(START_S / 2)
        await session.delete()
        return await deploying

    assert run(delete_meanwhile()).generation == 1
    assert session.serving == {}


def test_what_is_not_there_is_deleted_without_a_word(session) -> None:
    assert run(session.delete("nobody")) == []


def test_with_the_last_app_the_session_can_end(session) -> None:
    async def delete():
        await session.deploy()
        assert await session.delete("nobody", last_ends=True) == ["shop"]
        remaining = await session.delete(last_ends=True)
        with pytest.raises(SessionError, match="ending"):
            await session.call(About())
        with pytest.raises(SessionError, match="ending"):
            await session.deploy("v2")
        return remaining

    assert run(delete()) == []


# ---- interrupts and restarts --------------------------------------------------------------------


async def _cancelled_at(session, count: int) -> bool:
    """Deploys another version and interrupts it at an await; whether there was one."""
    await session.deploy("v1")
    before = session.serving
    task = asyncio.ensure_future(session.deploy("v2", stages=("words",)))
    calls = len(session.cluster.calls)

    def interrupt(number: int) -> None:
        if number - calls == count:
            task.cancel()

    session.cluster.interrupt = interrupt
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    session.cluster.interrupt = lambda number: None
    record = session.host.records["shop"]
    assert record.state is AppState.SERVING
    if not isinstance(outcome, asyncio.CancelledError):
        return False
    if record.generation == 1:
        assert session.serving == before
    else:  # it was interrupted after the change was made
        assert session.serving["words"][0] == "words-v2"
    # Nothing is left behind that no record knows.
    assert set(session.cluster.applications) == set(session.host.applications)
    assert await session.deploy("v3")
    return True


def test_an_interrupt_at_every_await_leaves_one_version_or_the_other(restarted) -> None:
    interrupted = 0
    while run(_cancelled_at(restarted(), interrupted)):
        interrupted += 1
    assert interrupted > 5


def test_a_deletion_that_is_interrupted_is_made_all_the_same(session) -> None:
    async def interrupt():
        await session.deploy()
        deleting = asyncio.ensure_future(session.delete())
        session.cluster.interrupt = lambda number: deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)

    run(interrupt())
    assert session.serving == {}
    assert session.host.records == {}


def test_an_interrupt_while_it_waits_its_turn_changes_nothing(session) -> None:
    async def interrupt():
        first = asyncio.ensure_future(session.deploy("v1"))
        await asyncio.sleep(START_S / 2)
        second = asyncio.ensure_future(session.deploy("v2"))
        await asyncio.sleep(0.01)
        second.cancel()
        return await first

    assert run(interrupt()).generation == 1
    assert session.serving["models"][0] == "models-v1"


def test_a_session_that_was_started_anew_knows_no_app_and_says_so(session, restarted) -> None:
    record = run(session.deploy())
    other = restarted()
    with pytest.raises(DeployError, match="there is no such app"):
        run(other.scale(record.generation, models=2))
    assert run(other.deploy()).generation == 1


def test_a_stopped_session_ends_without_a_logged_error(session, caplog) -> None:
    async def stop():
        running = asyncio.ensure_future(session.host.run())
        await asyncio.to_thread(time.sleep, 0.05)
        await session.call(StopSession())
        await running

    asyncio.run(stop())
    gc.collect()
    assert caplog.messages == []


# ---- the store ----------------------------------------------------------------------------------


def test_what_no_app_refers_to_is_deleted_from_the_store(session) -> None:
    async def many():
        for number in range(KEPT + 2):
            for path in session.store.folder.iterdir():
                os.utime(path, (0, 0))
            record = await session.deploy(f"v{number}")
        return record

    record = run(many())
    kept = {path.name for path in session.store.folder.iterdir()}
    assert record.objects == kept
    assert len(record.versions) == KEPT
    assert {v.version for v in record.versions} >= {record.version}
    stored = {session.store.get(key) for key in kept}
    assert {b"shop-v2", b"models-v2", b"plan of v2"} <= stored
    assert not {b"shop-v1", b"models-v1", b"plan of v1"} & stored
    # Nor does the cluster hold more of them: replicas load bundles, and never a plan.
    bundles = {key for key in kept if not session.store.get(key).startswith(b"plan")}
    assert session.cluster.published == {str(session.store.path(key)) for key in bundles}


def test_a_token_is_in_no_repr(session) -> None:
    record = run(session.deploy())
    rolled = session.host._rollouts["shop"]
    assert "secret" not in repr(record) + repr(rolled) + repr(session.host._info())


# ---- what there is no room for ------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
def test_what_can_never_fit_is_refused_before_anything_starts(session, local) -> None:
    async def too_many():
        session.cluster.local = local
        session.cluster.total = {"CPU": 4.0}
        await session.deploy(app="other", stages=())
        session.cluster.calls.clear()
        await session.deploy(stages=("a", "b", "c"))

    if not local:  # it may get more nodes
        run(too_many())
        return
    with pytest.raises(DeployError, match=r"needs 5 CPUs \(shop 1 × 1, .* other 1 × 1\)"):
        run(too_many())
    assert "apply" not in session.cluster.calls
    assert set(session.host.records) == {"other"}


def test_scaling_beyond_what_there_is_leaves_what_was_there(session) -> None:
    async def scale():
        session.cluster.total = {"CPU": 4.0}
        record = await session.deploy()
        before = session.serving
        session.cluster.calls.clear()
        with pytest.raises(DeployError, match="this machine has 4 CPUs"):
            await session.scale(record.generation, models=50)
        assert "apply" not in session.cluster.calls
        assert session.serving == before
        await session.scale(record.generation, models=3)

    run(scale())


def test_an_app_that_scaled_to_zero_takes_no_room(session) -> None:
    def target(name, **options):
        options = {"ray_actor_options": {"num_cpus": 1}, **options}
        return ApplicationTarget(
            name=name,
            deployment=name,
            kind="stage",
            arguments=(),
            version="",
            user_config={},
            options=options,
        )

    asleep = target("asleep", autoscaling_config={"min_replicas": 0})
    check_room("app", [target("app")], [asleep], {"CPU": 1.0})
    with pytest.raises(DeployError, match="needs 2 CPUs"):  # both have to start
        check_room("app", [target("app"), asleep], [], {"CPU": 1.0})


# ---- what a failure of Serve leaves -------------------------------------------------------------


def _refuse(*_: object) -> None:
    raise RuntimeError("the controller is not reachable")


def test_an_interrupt_before_a_rollout_begins_is_rolled_back(session, monkeypatch) -> None:
    async def interrupt():
        record_scaling = session.telemetry.record_scaling

        async def slowly(*arguments):
            await asyncio.sleep(1)
            await record_scaling(*arguments)

        await session.deploy()
        monkeypatch.setattr(session.telemetry, "record_scaling", slowly)
        scaling = asyncio.ensure_future(session.scale(1, models=2))
        await asyncio.sleep(0.5)
        scaling.cancel()
        await asyncio.gather(scaling, return_exceptions=True)
        assert session.state is AppState.SERVING
        return await session.scale(1, models=2)

    assert run(interrupt()).state is AppState.SERVING
    assert session.serving["models"][1] == 2


def test_after_a_rollback_that_hangs_the_same_version_is_brought_back(session, monkeypatch) -> None:
    async def hang():
        await session.deploy("v1")
        session.cluster.broken = {"models-v2"}
        apply, applied = session.cluster.apply, []

        async def once(targets):
            applied.append(targets)
            await (apply(targets) if len(applied) == 1 else asyncio.sleep(1e6))

        with monkeypatch.context() as patch:
            patch.setattr(session.cluster, "apply", once)
            with pytest.raises(DeployError, match="could not be restored"):
                await session.deploy("v2")
        assert session.state is AppState.ROLLING_BACK
        session.cluster.broken = set()
        return await session.deploy("v1")

    assert run(hang()).state is AppState.SERVING
    assert session.serving["models"][0] == "models-v1"


def test_an_error_of_serve_in_a_rollback_does_not_hide_the_first_one(session, monkeypatch) -> None:
    async def fail():
        await session.deploy("v1")
        session.cluster.broken = {"models-v2"}
        with monkeypatch.context() as patch:
            apply, applied = session.cluster.apply, []

            async def once(targets):
                applied.append(targets)
                await (apply(targets) if len(applied) == 1 else _refuse())

            patch.setattr(session.cluster, "apply", once)
            with pytest.raises(DeployError, match="could not be loaded"):
                await session.deploy("v2")
        session.cluster.broken = set()
        return await session.deploy("v2")

    assert run(fail()).state is AppState.SERVING
    assert session.serving["models"][0] == "models-v2"


def test_a_first_deployment_whose_rollback_fails_can_be_deployed_again(
    session, monkeypatch
) -> None:
    async def fail():
        session.cluster.broken = {"models-v1"}
        with monkeypatch.context() as patch:
            patch.setattr(session.cluster, "delete", _refuse)
            with pytest.raises(DeployError, match="could not be loaded"):
                await session.deploy("v1")
        assert set(session.cluster.applications) <= set(session.host.applications)
        session.cluster.broken = set()
        return await session.deploy("v1")

    assert run(fail()).state is AppState.SERVING
    assert set(session.cluster.applications) == set(session.host.applications)


def test_a_change_is_done_even_if_its_old_stages_cannot_be_deleted_yet(session) -> None:
    async def hang():
        await session.deploy("v1")
        session.cluster.hangs = {"delete"}
        record = await session.deploy("v2", stages=())
        session.cluster.hangs = set()
        assert set(session.cluster.applications) == set(session.host.applications)
        assert "models" in session.serving
        await session.deploy("v3", stages=())
        return record

    assert run(hang()).state is AppState.SERVING
    assert set(session.serving) == {"shop"}


def test_a_deletion_that_hangs_can_be_tried_again(session) -> None:
    async def hang():
        await session.deploy()
        session.cluster.hangs = {"delete"}
        with pytest.raises(DeployError, match="the deletion took longer"):
            await session.delete()
        session.cluster.hangs = set()
        assert set(session.cluster.applications) == set(session.host.applications)
        return await session.delete()

    assert run(hang()) == []
    assert session.cluster.applications == {}
