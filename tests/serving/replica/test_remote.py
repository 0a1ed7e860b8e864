"""What becomes of a call to a stage that brings no answer, without Ray."""

import pytest

from mlkit.errors import Overloaded
from mlkit.serving.replica.remote import _stage_error


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
