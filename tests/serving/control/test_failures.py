"""Deployments that fail, by kind: what the user reads, how soon, and what serves."""

from __future__ import annotations

import asyncio

import pytest

from mlkit.errors import DeployError
from mlkit.serving.control.cause import LONGEST, advice, cause_in
from mlkit.serving.control.records import AppState

from .conftest import START_S, run

SERVE = (
    "The deployment failed to start 1 times in a row. This may be due to a problem with its "
    "constructor or initial health check failing. See controller logs for details. Error:\n"
)


def traceback(*exception: str) -> str:
    """What Serve says about a constructor that raises."""
    return SERVE + "\n".join(
        [
            "ray::ServeReplica:shop:shop.initialize_and_get_metadata() (pid=7, ip=127.0.0.1)",
            '  File "/site-packages/ray/serve/_private/replica.py", line 1, in initialize',
            "    raise RuntimeError(traceback.format_exc()) from None",
            "RuntimeError: Traceback (most recent call last):",
            '  File "/site-packages/mlkit/serving/replica/front.py", line 2, in reconfigure',
            '    raise DeployError(self._rejected[config["version"]])',
            "    ^^^^^^^^^^^^",
            *exception,
        ]
    )


KINDS = {
    "constructor": (
        traceback(
            "mlkit.errors.DeployError: RuntimeError: this model is broken",
            "Raised by the loader of resource 'load'.",
        ),
        "RuntimeError: this model is broken. Raised by the loader of resource 'load'.",
        "app.failures",
    ),
    "import": (
        traceback("mlkit.errors.DeployError: ModuleNotFoundError: No module named 'shapely'"),
        "ModuleNotFoundError: No module named 'shapely'",
        "install it where the replicas run",
    ),
    "health": (
        "A replica's health check failed. This deployment will be UNHEALTHY until the replica "
        "recovers or a new deploy happens.",
        "A replica's health check failed.",
        "app.logs()",
    ),
    "memory": (
        traceback(
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 931. GiB for an array "
            "with shape (1000000, 125000) and data type float64"
        ),
        "Unable to allocate 931. GiB",
        "load a smaller model",
    ),
    "killed": (
        SERVE + "ActorDiedError: The actor died unexpectedly before finishing this task.\n"
        "\tclass_name: ServeReplica:shop:shop\n\tactor_id: 1\nThe actor is dead because its worker "
        "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: connection error "
        "code 2. End of file. Some common causes include: (1) the process was killed by the OOM "
        "killer due to high memory usage.",
        "its process was killed",
        "load a smaller model",
    ),
}
"""What is reported by kind, and what the user reads: the cause, and what to do."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["models", "models-v2", "shop"])
def test_a_bad_deployment_is_told_in_three_lines_and_the_old_version_serves(
    session, kind, how
) -> None:
    """In a new process (by stage) and in a running one (by version), in the front and behind it."""
    words, cause, fix = KINDS[kind]

    async def fail():
        loop = asyncio.get_running_loop()
        first = await session.deploy("v1")
        before, began = session.serving, loop.time()
        session.cluster.broken, session.cluster.words = {how}, words
        if how != "models-v2":  # Serve goes back to what ran before at once
            loop.call_later(START_S, session.cluster.broken.clear)
        with pytest.raises(DeployError) as caught:
            await session.deploy("v2")
        return first, before, caught.value, loop.time() - began

    first, before, error, seconds = run(fail())
    lines = str(error).split("\n")
    assert len(lines) == 3
    assert lines[0].startswith(f"{how.partition('-')[0]}: ")
    assert cause in lines[1]
    assert fix in lines[2]
    assert seconds < 30
    record = session.host.records["shop"]
    assert (record.version, record.generation) == (first.version, 1)
    assert session.serving == before
    assert cause in record.versions[-1].error
    if record.state is AppState.SERVING:
        assert lines[0].endswith("the previous version keeps serving")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_first_deployment_leaves_nothing(session, kind) -> None:
    session.cluster.broken, session.cluster.words = {"models"}, KINDS[kind][0]
    with pytest.raises(DeployError) as caught:
        run(session.deploy())
    assert KINDS[kind][1] in str(caught.value)
    assert len(str(caught.value).split("\n")) == 3
    assert session.serving == {}


def test_replicas_that_die_of_what_they_load_are_noticed_and_the_old_version_returns(
    session,
) -> None:
    async def die():
        loop = asyncio.get_running_loop()
        await session.deploy("v1")
        before, began = session.serving, loop.time()
        session.cluster.deadly, session.cluster.words = {"models"}, KINDS["killed"][0]
        deploying = asyncio.ensure_future(session.deploy("v2"))
        await asyncio.sleep(0.01)
        while session.state is AppState.UPDATING:
            await asyncio.sleep(0.1)
        session.cluster.deadly = set()
        with pytest.raises(DeployError, match="its replicas died") as caught:
            await deploying
        return before, caught.value, loop.time() - began

    before, error, seconds = run(die())
    assert session.serving == before
    assert session.state is AppState.SERVING
    assert seconds < 30
    assert "killed" in error.got


def test_a_rollback_that_fails_is_said_and_not_hidden(session) -> None:
    async def fail():
        await session.deploy("v1")
        session.cluster.broken = {"models"}
        with pytest.raises(DeployError) as caught:
            await session.deploy("v2")
        return caught.value

    assert "the previous version could not be restored" in str(run(fail()))


# ---- the cause in a message ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("ValueError: no", "ValueError: no"),
        ("ValueError: a\nRaised by the loader of x", "ValueError: a. Raised by the loader of x"),
        ("ValueError: no!\nRaised by the loader of x", "ValueError: no! Raised by the loader of x"),
        (
            "ValidationError: 1 error\nx\n  Field required",
            "ValidationError: 1 error x Field required",
        ),
        ("", "no message"),
        ("   \n\t", "no message"),
        ("pkg.mod.OwnError: it broke", "OwnError: it broke"),
        (
            "step 'f': it has no parameter\n  expected a",
            "step 'f': it has no parameter; expected a",
        ),
        (
            traceback("mlkit.errors.DeployError: DefinitionError: step 'f': wrong", "  got int"),
            "DefinitionError: step 'f': wrong; got int",
        ),
        (traceback("KeyError: 'a'"), "KeyError: 'a'"),
    ],
)
def test_the_cause_is_the_exception_in_one_line(message, cause) -> None:
    assert cause_in(message) == cause


def test_a_long_cause_is_cut() -> None:
    assert len(cause_in("ValueError: " + "x" * 10_000)) == LONGEST


@pytest.mark.parametrize(
    "cause", ["ValueError: no", "ValueError: no such room", "RuntimeError: a worker died, SIGKILL"]
)
def test_a_cause_of_an_unknown_kind_leads_to_the_traceback(cause) -> None:
    assert cause_in(cause) == cause
    assert "app.failures" in advice(cause)
