"""Parameters whose names the library, FastAPI or pydantic might want for themselves."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import Field

from mlkit import batched_step, each, pipeline, step
from mlkit.errors import DefinitionError
from mlkit.serving import asgi, served
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.curl import curl

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


@pytest.mark.parametrize("doc", ["", "Do.\n\nArgs:\n    a: this one."], ids=["", "described"])
@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Annotated[int, Field(alias="z")], 1),
        (Annotated[int, Field(alias="y", validation_alias="z")], 1),
        (Annotated[Annotated[int, Field(alias="y")], Field(alias="z")], 1),
        (Annotated[int, Query(alias="z")], 1),
        (Annotated[bytes, Field(alias="z")], b"q"),
        (Annotated[list[bytes], Field(alias="z")], [b"q"]),
    ],
    ids=["alias", "validation_alias", "twice", "Query", "upload", "uploads"],
)
def test_an_alias_is_the_name_in_every_kind_of_request(
    type_: Any, value: Any, optional: bool, doc: str, tmp_path: Path
) -> None:
    @step
    def show(a: Any, b: int) -> str:
        return f"{a!r} {b}"

    def aliased(a: type_, b: int = 0) -> str:
        return show(a, b)

    aliased.__defaults__ = (None, 0) if optional else (0,)
    aliased.__doc__ = doc
    pipe = pipeline(aliased)
    assert pipe.problems == ()
    codec = Codec(pipe.graph)
    with TestClient(asgi(pipe)) as client:
        schema = client.get("/openapi.json").json()["components"]["schemas"]["AliasedRequest"]
        assert list(schema["properties"]) == ["z", "b"]
        for arguments in ({"a": value}, {"a": value, "b": 2}):
            public = codec.public_request("/aliased", None, arguments)
            as_json = {"Content-Type": "application/json"}
            for body, headers, url in (
                (public.body, public.headers, public.url),
                (codec.json_body(arguments), as_json, "/aliased"),
            ):
                response = client.post(url, content=body, headers=headers)
                assert response.json() == pipe(**arguments), response.text
    assert any(start in curl(codec, "", None, {"a": value}, tmp_path) for start in ("z=@", '"z"'))
