"""A pipeline answers and documents itself as a route of FastAPI with the same types does."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, File
from fastapi import Form as FormField
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict

from mlkit import pipeline, step
from mlkit.define.arguments import Arguments
from mlkit.serving import asgi
from tests.serving.http.parity_cases import CASES, FORMS, Case, Form

BASE = "http://127.0.0.1"


def fastapi_of(fn: Callable[..., Any], mark: Callable[[str], Any]) -> FastAPI:
    """FastAPI alone, with a route whose parameters are marked as parts of the body."""
    hints = typing.get_type_hints(fn, include_extras=True)
    signature = inspect.signature(fn)
    parameters = [
        p.replace(annotation=Annotated[hints[name], mark(name)], kind=p.KEYWORD_ONLY)
        for name, p in signature.parameters.items()
    ]

    def route(**arguments: Any) -> Any:
        return fn(**arguments)

    route.__name__ = fn.__name__
    route.__signature__ = inspect.Signature(parameters, return_annotation=hints["return"])  # type: ignore[attr-defined]
    app = FastAPI()
    app.post(f"/{fn.__name__}")(route)
    return app


def pipeline_of(fn: Callable[..., Any]) -> Any:
    """A pipeline of a single step."""
    node = step(fn)

    @pipeline
    @functools.wraps(fn)
    def call(**arguments: Any) -> Any:
        return node(**arguments)

    return call


@contextmanager
def both(fn: Callable[..., Any], mark: Callable[[str], Any]) -> Iterator[tuple[Any, Any]]:
    pipe = pipeline_of(fn)
    assert not pipe.problems
    with (
        TestClient(fastapi_of(fn, mark), BASE, raise_server_exceptions=False) as theirs,
        TestClient(asgi(pipe), BASE, raise_server_exceptions=False) as ours,
    ):
        yield theirs, ours


def embedded(name: str) -> Any:
    return Body(embed=True)


def field_of(fn: Callable[..., Any]) -> Callable[[str], Any]:
    files = Arguments(pipeline_of(fn).graph).files
    return lambda name: File() if name in files else FormField()


def outcome(answer: Any) -> tuple[int, Any]:
    """Status with the body, or with place and type of each error."""
    if answer.status_code != 422:
        return answer.status_code, answer.json()
    body = answer.json()
    errors = body["errors"] if "errors" in body else body["detail"]
    return 422, sorted((error["loc"][1:], kind_of(error)) for error in errors)


def kind_of(error: dict[str, Any]) -> str:
    # FastAPI validates what json.loads returns, and models from attributes too.
    same = {"model_attributes_type": "model_type", "is_instance_of": "list_type"}
    return same.get(error["type"], error["type"])


def by_case(cases: list[Any]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.fn.__name__)


@by_case(CASES)
def test_json_is_answered_alike(case: Case) -> None:
    with both(case.fn, embedded) as (theirs, ours):
        for body in (*case.accepted, *case.refused):
            expected = outcome(theirs.post(f"/{case.fn.__name__}", json=body))
            assert outcome(ours.post(f"/{case.fn.__name__}", json=body)) == expected, body
            assert expected[0] == (200 if body in case.accepted else 422), expected


@by_case(FORMS)
def test_forms_are_answered_alike(case: Form) -> None:
    with both(case.fn, field_of(case.fn)) as (theirs, ours):
        for name, request in case.requests.items():
            expected = outcome(theirs.post(f"/{case.fn.__name__}", **request))
            assert outcome(ours.post(f"/{case.fn.__name__}", **request)) == expected, name


def required(number: int) -> int:
    return number


def optional(number: int = 3, name: str | None = None) -> list[Any]:
    return [number, name]


@pytest.mark.parametrize("fn", [required, optional], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain"])
def test_an_empty_body_is_answered_alike(fn: Any, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    with both(fn, embedded) as (theirs, ours):
        expected = outcome(theirs.post(f"/{fn.__name__}", headers=headers))
        assert outcome(ours.post(f"/{fn.__name__}", headers=headers)) == expected


def binary(data: bytes) -> int:
    return len(data)


def text(name: str = "new") -> str:
    return name


def as_text(number: int) -> int:
    return str(number)  # type: ignore[return-value]


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str


def from_attributes(number: int) -> Row:
    return SimpleNamespace(name="a")  # type: ignore[return-value]


def record(row: Row) -> str:
    return row.name


JSON = {"content-type": "application/json"}

DIFFERENCES: list[tuple[str, Any, dict[str, Any], int, int]] = [
    # why it differs, function, request, status of FastAPI, and of mlkit
    ("bytes in JSON are a data: URL", binary, {"json": {"data": "abc"}}, 200, 422),
    ("a text for a file is a data: URL", binary, {"data": {"data": "abc"}}, 200, 422),
    ("an empty file is an error", binary, {"files": {"data": ("a", b"")}}, 200, 422),
    ("a second file would be lost", binary, {"files": [("data", ("a", b"1"))] * 2}, 200, 422),
    ("a file by an unknown name would be lost", text, {"files": {"x": ("a", b"1")}}, 200, 422),
    ("an empty text is a text", text, {"data": {"name": ""}}, 200, 200),
    ("a field may be JSON", required, {"data": {"number": "true"}}, 422, 200),
    ("a model is one field, as JSON", record, {"data": {"row": '{"name": "a"}'}}, 422, 200),
    ("a form is accepted as well as JSON", required, {"data": {"number": "3"}}, 422, 200),
    ("415 for any other type", required, {"content": "3", "headers": {}}, 422, 415),
    ("JSON is UTF-8", required, {"content": '\ufeff{"number": 3}', "headers": JSON}, 200, 422),
    ("JSON is UTF-8", text, {"content": rb'{"name": "\ud800"}', "headers": JSON}, 500, 422),
    ("NaN is a 422", required, {"content": '{"number": NaN}', "headers": JSON}, 500, 422),
    ("results are strict", as_text, {"json": {"number": 1}}, 200, 500),
    ("results are of their type", from_attributes, {"json": {"number": 1}}, 200, 500),
]
"""What differs from FastAPI by decision; docs/types.md has the table."""


@pytest.mark.parametrize(
    ("fn", "request_", "their_status", "our_status"),
    [pytest.param(*row, id=reason) for reason, *row in DIFFERENCES],
)
def test_a_difference_by_decision(
    fn: Any, request_: dict[str, Any], their_status: int, our_status: int
) -> None:
    form = "data" in request_ or "files" in request_
    mark = field_of(fn) if form and fn is not required else embedded
    with both(fn, mark) as (theirs, ours):
        assert theirs.post(f"/{fn.__name__}", **request_).status_code == their_status
        assert ours.post(f"/{fn.__name__}", **request_).status_code == our_status


@pytest.mark.parametrize("body", ["[1]", "null", '{"number": 1', '{"number": 1} // one'])
def test_what_is_no_json_object_is_an_error_of_the_body(body: str) -> None:
    with both(required, embedded) as (theirs, ours):
        assert theirs.post("/required", content=body, headers=JSON).status_code == 422
        answer = ours.post("/required", content=body, headers=JSON)
        assert answer.status_code == 422
        assert [error["loc"] for error in answer.json()["errors"]] == [["body"]]


def normalised(schema: Any) -> Any:
    """Without generated titles and defaults of null, which FastAPI omits; ``required`` sorted.

    A float in a result may be null: both send that for NaN, and only mlkit documents it. A model
    with such a field then has two names, for arguments and for results.
    """
    if isinstance(schema, str):
        return re.sub(r"-(Input|Output)$", "", schema)
    if isinstance(schema, list):
        return [normalised(child) for child in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("description") == "a duration in ISO 8601":  # P1Y2D, which is no "duration"
        schema = {k: v for k, v in schema.items() if k != "description"} | {"format": "duration"}
    number, *others = schema.get("anyOf", [{}])
    if number.get("type") == "number" and others == [{"type": "null"}]:
        schema = {key: child for key, child in schema.items() if key != "anyOf"} | number
    return {
        key: sorted(child) if key == "required" else normalised(child)
        for key, child in schema.items()
        if not (key == "title" and isinstance(child, str)) and (key, child) != ("default", None)
    }


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    components: dict[str, Any] = document["components"]["schemas"]
    return components[reference.rpartition("/")[2]]


def schemas_of(document: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Schemas of the JSON body and of the answer."""
    operation = document["paths"][f"/{name}"]["post"]
    content = operation["responses"]["200"]["content"]["application/json"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    return resolved(document, body), content["schema"]


@by_case(CASES)
def test_documents_are_alike(case: Case) -> None:
    name = case.fn.__name__
    with both(case.fn, embedded) as (theirs, ours):
        their_document = theirs.get("/openapi.json").json()
        our_document = ours.get("/openapi.json").json()
    their_body, their_answer = schemas_of(their_document, name)
    our_body, our_answer = schemas_of(our_document, name)
    for key in ("properties", "required"):
        assert normalised(our_body.get(key)) == normalised(their_body.get(key))
    assert normalised(our_answer) == normalised(their_answer)
    our_components = our_document["components"]["schemas"]
    their_components = their_document["components"]["schemas"]
    shared = their_components.keys() - {"HTTPValidationError", "ValidationError"}
    shared -= {n for n in shared if n.startswith("Body_")}
    assert {normalised(name) for name in shared} <= {normalised(name) for name in our_components}
    for component, ours_ in our_components.items():
        theirs_ = their_components.get(component) or their_components.get(normalised(component))
        if component in shared or normalised(component) in shared:
            assert normalised(ours_) == normalised(theirs_), component
