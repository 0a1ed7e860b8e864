"""Named tokens and the audit log of a session, on a cluster that is made up."""

from __future__ import annotations

import asyncio
import json

import pytest

from mlkit.errors import DeployError
from mlkit.serving.control.audit import AUDIT, Audit, read_audit
from mlkit.serving.control.protocol import About, CreateToken, DeleteApp, RevokeToken, StopSession
from mlkit.serving.control.records import AppState
from mlkit.serving.grants import Grant, digest_of
from mlkit.serving.limits import Limits

from .conftest import run

DIGEST = digest_of(b"the secret itself")


def create(session, name="mobile", by="", **fields):
    grant = Grant(name=name, digest=DIGEST, **fields)
    return session.call(CreateToken(app="shop", grant=grant, by=by))


def revoke(session, name="mobile"):
    return session.call(RevokeToken(app="shop", name=name))


def accepted(session) -> list[str]:
    """Names of the tokens that replicas of the front accept."""
    front = session.cluster.applications["shop"][0]
    return [grant["name"] for grant in front.user_config["grants"]]


def names(record) -> list[str]:
    return [grant.name for grant in record.grants]


def test_a_token_reaches_running_replicas_and_leaves_them_again(session) -> None:
    async def main() -> None:
        deployed = await session.deploy()
        front = session.cluster.applications["shop"]
        created = await create(session)
        assert accepted(session) == names(created) == ["mobile"]
        assert [(c.stage, c.action) for c in created.changes if c.action != "kept"] == [
            ("shop", "reconfigured")
        ]
        revoked = await revoke(session)
        assert accepted(session) == names(revoked) == []
        after = session.cluster.applications["shop"]
        assert (after[0].version, after[1]) == (front[0].version, front[1])  # not restarted
        assert [v.version for v in revoked.versions] == [deployed.version]
        assert revoked.generation == 3

    run(main())


def test_nothing_brings_back_a_token_that_was_revoked(session) -> None:
    async def main() -> None:
        await session.deploy("v1")
        await create(session)
        await session.deploy("v2")
        assert accepted(session) == ["mobile"]
        await create(session, "other")
        await revoke(session)
        await session.roll_back()
        assert accepted(session) == ["other"]
        await session.swap("new model")
        await session.roll_back()
        await session.call(session.limits(Limits(max_ongoing_requests=3)))
        assert accepted(session) == names(session.host.records["shop"]) == ["other"]

    run(main())


def test_a_change_that_fails_leaves_the_tokens_as_they_are(session) -> None:
    async def main() -> None:
        await session.deploy("v1")
        await create(session)
        session.cluster.broken = {"models-v2"}
        with pytest.raises(DeployError):
            await session.deploy("v2")
        assert accepted(session) == names(session.host.records["shop"]) == ["mobile"]

    run(main())


def test_a_token_that_no_replica_confirms_is_not_there_and_says_so(session) -> None:
    async def main() -> None:
        await session.deploy()
        await create(session)
        granted = session.cluster.applications["shop"][0].user_config["granted"]
        await revoke(session)
        session.cluster.broken = {granted}
        with pytest.raises(DeployError):
            await create(session)
        assert names(session.host.records["shop"]) == []
        assert session.state is AppState.SERVING

    run(main())


def test_an_app_that_was_shut_down_takes_its_tokens_along(session) -> None:
    async def main() -> None:
        await session.deploy()
        await create(session)
        await session.delete()
        assert names(await session.deploy()) == []
        with pytest.raises(DeployError, match="no token"):
            await revoke(session)

    run(main())


def test_each_replica_has_its_share_of_a_rate_and_scaling_changes_it(session) -> None:
    async def main() -> None:
        await session.deploy()
        record = await create(session, rate=6.0, burst=6.0)
        for count in (1, 3, 2):
            record = await session.scale(record.generation, shop=count)
            (grant,) = session.cluster.applications["shop"][0].user_config["grants"]
            assert grant["rate"] == grant["burst"] == 6.0 / count
        assert record.grants[0].rate == 6.0

    run(main())


def test_the_log_has_who_did_what_and_how_it_ended(session) -> None:
    async def main() -> None:
        await session.deploy("v1")
        await create(session, by="shop.ipynb (pid 7)", scopes=("call", "observe"), rate=50.0)
        await session.update("0.7 which is a secret")
        await session.swap("model-2")
        await session.roll_back()
        await session.scale(session.host.records["shop"].generation, models=2)
        session.cluster.broken = {"models-v2"}
        session.cluster.words = "ValueError: postgres://user:password@host"
        with pytest.raises(DeployError):
            await session.deploy("v2")
        await revoke(session)
        await session.call(About())
        await session.delete()
        await session.call(StopSession())

    run(main())
    entries = read_audit(session.host.folder)
    assert [(e["action"], e["detail"], e["outcome"]) for e in entries] == [
        ("deploy", "stages shop, models", "done"),
        ("create token", "mobile: call, observe, 50/s", "done"),
        ("update", "step_of_models.threshold", "done"),
        ("swap", "step_of_models.model", "done"),
        ("roll back", "", "done"),
        ("scale", "models 2", "done"),
        ("deploy", "stages shop, models", "failed: DeployError"),
        ("revoke token", "mobile", "done"),
        ("shut down", "", "done"),
        ("stop session", "", "done"),
    ]
    assert [e["app"] for e in entries] == ["shop"] * 9 + [""]
    assert entries[1]["by"] == "shop.ipynb (pid 7)"
    text = (session.host.folder / AUDIT).read_text()
    for secret in (DIGEST, "the secret itself", "secret", "password"):
        assert secret not in text
    assert (session.host.folder / AUDIT).stat().st_mode & 0o077 == 0


def test_a_change_that_is_interrupted_is_logged_as_such(session) -> None:
    async def main() -> None:
        await session.deploy("v1")
        session.cluster.hangs = {"apply"}
        call = asyncio.ensure_future(session.deploy("v2"))
        for _ in range(20):
            await asyncio.sleep(0)
        session.cluster.hangs = set()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main())
    assert [e["outcome"] for e in read_audit(session.host.folder)] == ["done", "cancelled"]


def test_the_log_is_bounded_and_ordered(tmp_path) -> None:
    times = iter(range(10_000))
    audit = Audit(tmp_path, now=lambda: float(next(times)), max_bytes=2_000)
    for number in range(300):
        with audit.recording(DeleteApp(app=f"app-{number}")):
            pass
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert all(file.stat().st_size < 2_500 for file in files)
    entries = read_audit(tmp_path)
    assert [e["time"] for e in entries] == list(range(300 - len(entries), 300))


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nb", "\x1b[2Jb", "\u2028b", "\x85b", "x" * 5_000])
def test_a_hostile_name_is_one_line_of_the_log(tmp_path, hostile) -> None:
    with Audit(tmp_path).recording(DeleteApp(app=hostile, by=hostile)):
        pass
    text = (tmp_path / AUDIT).read_text()
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert text.rstrip("\n").isprintable()
    assert len(text) < 1_000
    assert json.loads(text)["app"] == hostile[:200]


def test_a_log_that_cannot_be_written_stops_no_change(tmp_path) -> None:
    (tmp_path / AUDIT).mkdir()
    with Audit(tmp_path).recording(DeleteApp(app="shop")):
        pass
    assert read_audit(tmp_path) == []
