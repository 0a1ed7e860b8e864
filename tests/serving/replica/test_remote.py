"""Calls to a stage: the model that they name, and those that bring no answer; without Ray."""

import asyncio
from typing import Any, Generic, TypeVar

import pydantic
import pytest

from mlkit.errors import Overloaded
from mlkit.plan import RemoteStep
from mlkit.serving.replica.affinity import model_key
from mlkit.serving.replica.remote import Answer, Route, Router, _stage_error, pack, unpack

T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    item: T


def test_a_generic_model_that_no_module_names_is_the_same_class_afterwards() -> None:
    page = Page[Page[int]](item=Page[int](item=1))
    restored = unpack(pack([page, page]))[0]
    assert (type(restored), type(restored.item)) == (Page[Page[int]], Page[int])
    assert restored == page


class RayError(Exception):
    """Stands for Ray's base class; the rule goes by the names of classes."""


class RayTaskError(RayError):
    pass


class RayServeException(Exception):
    pass


@pytest.mark.parametrize(
    "kind",
    [
        type("BackPressureError", (RayServeException,), {}),
        type("ActorDiedError", (RayError,), {}),
        type("AioRpcError", (type("RpcError", (Exception,), {}),), {}),
    ],
)
def test_a_stage_that_is_full_or_gone_can_be_tried_again(kind) -> None:
    error = _stage_error("classify", kind("gone"))
    assert isinstance(error, Overloaded)
    assert error.status == 503


@pytest.mark.parametrize(
    "error",
    [
        type("RayTaskError(KeyError)", (RayTaskError, KeyError), {})("a version"),
        KeyError("a version"),
        TypeError("cannot pickle '_thread.lock' object"),
    ],
)
def test_a_fault_of_a_stage_is_no_overload(error) -> None:
    raised = _stage_error("classify", error)
    assert not isinstance(raised, Overloaded)
    assert raised.status == 500
    assert "stage 'classify'" in str(raised)


class FakeHandle:
    """Stands for Serve's handle of a stage: its options are those of the last call."""

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}
        self.called: dict[str, Any] = {}

    def options(self, **options: Any) -> "FakeHandle":
        changed = FakeHandle()
        changed.chosen, changed.called = self.chosen | options, self.called
        return changed

    def remote(self, *arguments: Any) -> Any:
        self.called.update(self.chosen)
        return self._stream() if self.chosen.get("stream") else self._call()

    async def _call(self) -> bytes:
        return pack(Answer(("answered",)))

    async def _stream(self) -> Any:
        yield pack(Answer())


def options_of(step: RemoteStep, **inputs: Any) -> dict[str, Any]:
    """The options of the handle with which a call is made."""
    handle = FakeHandle()
    router = Router("app", {"models": Route("app.models", "models", "v1")}, lambda *_: handle)

    async def main() -> None:
        if step.yields:
            assert [item async for item in router.stream(step, inputs)] == []
        else:
            assert await router.call(step, inputs) == ("answered",)

    asyncio.run(main())
    return handle.called


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("model", "value", "named"),
    [
        ("in_1", "shoes:v1", {"multiplexed_model_id": model_key("shoes:v1")}),
        ("in_1", ["shoes:v1", "hats:v1"], {}),
        ("in_1", None, {}),
        (None, "shoes:v1", {}),
    ],
)
def test_a_call_names_the_model_that_it_uses(streaming, model, value, named) -> None:
    step = RemoteStep("models", "classify", ("in_0", "in_1"), streaming, model)
    stream = {"method_name": "stream", "stream": True} if streaming else {}
    assert options_of(step, in_0=1, in_1=value) == {**stream, **named}
