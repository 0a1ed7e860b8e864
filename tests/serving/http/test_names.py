"""Parameters whose names the library, FastAPI or pydantic might want for themselves."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from mlkit import batched_step, each, pipeline, step
from mlkit.errors import DefinitionError
from mlkit.serving import asgi, served

NAMES = [
    "self",
    "cls",
    "args",
    "kwargs",
    "request",
    "step",
    "tracer",
    "fn",
    "name",
    "execution",
    "task",
    "item",
    "items",
    "inputs",
    "arguments",
    "results",
    "given_",
    "deadline",
    "loop",
    "model_config",
    "model_fields",
    "json",
    "copy",
    "schema",
    "values",
    "_hidden",
    "body",
    "query",
    "payload",
    "token",
    "stream",
    "remote",
]


def defined(name: str) -> dict[str, Any]:
    """What a cell defines, all of whose functions have a parameter of that name."""
    names: dict[str, Any] = {"__name__": "__main__", "batched_step": batched_step, "each": each}
    names |= {"pipeline": pipeline, "step": step}
    exec(
        f"@step\ndef double({name}: int) -> int:\n    return 2 * {name}\n"
        f"@batched_step\ndef many({name}: list[int]) -> list[int]:\n    return {name}\n"
        f"@pipeline\ndef inner({name}: int) -> int:\n"
        f"    return many({name}=double({name}={name}))\n"
        f"@pipeline\ndef outer({name}: int) -> list[int]:\n"
        f"    numbers = listed({name}=inner({name}={name}))\n    return each(double, numbers)\n"
        f"@step\ndef listed({name}: int) -> list[int]:\n    return [{name}]\n",
        names,
    )
    return names


@pytest.mark.parametrize("name", NAMES[:8])
def test_a_parameter_may_have_any_name(name: str) -> None:
    names = defined(name)
    arguments = {name: 2}
    assert names["double"](**arguments) == 4
    assert names["many"](**arguments) == 2
    outer = names["outer"]
    assert outer.problems == ()
    assert outer(**arguments) == outer(2) == outer.run(**arguments).value == [8]
    assert outer.map([arguments], progress=False, workers=1) == [[8]]


@pytest.fixture(scope="module")
def client() -> Any:
    """An application whose pipeline has a parameter of each name."""
    names: dict[str, Any] = {"__name__": "__main__", "pipeline": pipeline, "step": step}
    parameters = ", ".join(f"{name}: int" for name in NAMES)
    exec(
        f"@step\ndef total({parameters}) -> int:\n    return {' + '.join(NAMES)}\n"
        f"@pipeline\ndef summed({parameters}) -> int:\n    return total({', '.join(NAMES)})\n",
        names,
    )
    shop = FastAPI()

    @shop.get("/sum")
    async def sum_of_names(summed: Any = Depends(served(names["summed"]))) -> int:
        return await summed(**dict.fromkeys(NAMES, 1))

    with TestClient(asgi(names["summed"], fastapi=shop)) as client:
        yield client


def test_requests_and_routes_pass_them(client: Any) -> None:
    response = client.post("/summed", json=dict.fromkeys(NAMES, 1))
    assert response.json() == len(NAMES), response.text
    response = client.post("/summed", data=dict.fromkeys(NAMES, "1"))
    assert response.json() == len(NAMES), response.text
    assert client.get("/sum").json() == len(NAMES)


def test_a_name_that_cannot_be_a_parameter_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionError, match=r"'given' is a keyword of Pipeline\.run"):

        @pipeline
        def named(given: int) -> int:
            return given
