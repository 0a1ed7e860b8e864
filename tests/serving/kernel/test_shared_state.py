"""A deployment warns of state that each replica has for itself."""

import warnings
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from mlkit import pipeline, resource, step
from mlkit.errors import SessionError
from mlkit.serving import deploy
from mlkit.serving.kernel.session import Session

SEEN: list[int] = []
ORDERS: dict[int, int] = {}
shop = FastAPI()


@step
def count(x: int) -> int:
    SEEN.append(x)
    return len(SEEN)


@step
def double(x: int) -> int:
    return 2 * x


@pipeline
def counted(x: int) -> int:
    return count(x)


@pipeline
def doubled(x: int) -> int:
    return double(x)


@shop.post("/orders")
def order(x: int) -> int:
    ORDERS[x] = ORDERS.get(x, 0) + 1
    return ORDERS[x]


@pytest.fixture(autouse=True)
def _nowhere_to_deploy(monkeypatch: Any) -> None:
    def fail() -> None:
        raise SessionError("this is as far as it goes")

    monkeypatch.setattr(Session, "of_this_notebook", fail)


@pytest.mark.parametrize(
    ("pipe", "fastapi", "text"),
    [
        (counted, None, r"step 'count' changes 'SEEN': each replica has its own copy of 'SEEN'"),
        (doubled, shop, r"the route POST /orders changes 'ORDERS'.*database.*resource\(dict\)"),
    ],
)
def test_a_deployment_names_what_is_changed_and_by_whom(pipe, fastapi, text) -> None:
    with (
        pytest.warns(UserWarning, match=text) as warned,
        pytest.raises(SessionError, match="as far"),
    ):
        deploy(pipe, fastapi=fastapi, progress=False)
    (warning,) = (each for each in warned if each.category is UserWarning)
    assert warning.filename == __file__


def test_a_deployment_names_settings_that_replicas_do_not_have() -> None:
    @step
    def root(x: float) -> float:
        return float(np.sqrt(x))

    @pipeline
    def rooted(x: float) -> float:
        return root(x)

    def load() -> float:
        return float(np.sqrt(4))

    @step
    def scale(x: float, *, by: float = resource(load)) -> float:
        return x * by

    @pipeline
    def scaled(x: float) -> float:
        return scale(x)

    match = r"np\.seterr.*with np\.errstate\(\.\.\.\):"
    for pipe in (rooted, scaled):
        with (
            np.errstate(all="raise"),
            pytest.warns(UserWarning, match=match),
            pytest.raises(SessionError, match="as far"),
        ):
            deploy(pipe, progress=False)


def test_a_deployment_without_such_state_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(SessionError, match="as far"):
            deploy(doubled, progress=False)
