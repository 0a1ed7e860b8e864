"""The Model Context Protocol beside a pipeline's own route; messages are written by hand."""

import base64
import json

import jsonschema
import numpy as np
import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from mlkit import Image, InputError, pipeline, step
from mlkit.errors import Overloaded
from mlkit.serving import Limits, asgi
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.mcp import MODERN, VERSIONS

ADDRESS = "http://127.0.0.1"
TOKEN = "t0ken"


class Label(BaseModel):
    name: str
    score: float | None
    parts: list["Label"] = []


@step
def judge(name: str, score: float) -> Label:
    if name == "bad":
        raise InputError("no such label", fix="send another")
    if name == "boom":
        raise ValueError("secret")
    if name == "full":
        raise Overloaded("too much", fix="wait")
    return Label(name=name, score=score, parts=[Label(name="part", score=None)])


@pipeline
def label(name: str, score: float = 0.5) -> Label:
    """Label a thing.

    Args:
        name: what it is called.

    Returns:
        its label.
    """
    return judge(name, score)


@step
def invert(image: Image) -> Image:
    return Image.open(255 - image.pixels)


@pipeline
def inverted(image: Image) -> Image:
    return invert(image)


def echo(annotation):
    @step
    def same(x: annotation) -> annotation:
        return x

    @pipeline
    def echoed(x: annotation) -> annotation:
        return same(x)

    return echoed


@pytest.fixture
def client():
    """Returns a function: pipeline to a client of its application."""

    def make(pipe=label, **options):
        return TestClient(asgi(pipe, **options), base_url=ADDRESS)

    return make


def ask(client, method, params=None, *, id=1, path="/mcp", **headers):
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, json=message, headers=names)


def modern(client, method, params=None, **headers):
    """As `ask`, in the version without a handshake."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    own = {"mcp_protocol_version": MODERN, "mcp_method": method, **headers}
    if method == "tools/call" and "mcp_name" not in headers:
        own["mcp_name"] = params["name"]
    return ask(client, method, {**(params or {}), "_meta": meta}, **own)


def call(client, tool, arguments, how=ask):
    response = how(client, "tools/call", {"name": tool, "arguments": arguments})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return response.json()["result"]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2024-11-05", "2025-11-25"),
        (MODERN, "2025-11-25"),
        (None, "2025-11-25"),
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/label/mcp"])
def test_a_handshake_agrees_on_a_version(client, asked, answered, path) -> None:
    result = ask(client(), "initialize", {"protocolVersion": asked}, path=path).json()["result"]
    assert result == {
        "protocolVersion": answered,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "label", "version": "1"},
    }


def test_notifications_and_responses_are_accepted(client) -> None:
    for message in ({"method": "notifications/initialized"}, {"id": 1, "result": {}}):
        response = client().post("/mcp", json={"jsonrpc": "2.0", **message})
        assert (response.status_code, response.content) == (202, b"")


def test_ping(client) -> None:
    document = ask(client(), "ping", id="a").json()
    assert document == {"jsonrpc": "2.0", "id": "a", "result": {}}


def test_discovery_without_a_handshake(client) -> None:
    result = modern(client(), "server/discover").json()["result"]
    assert result["supportedVersions"] == list(VERSIONS)
    assert result["capabilities"] == {"tools": {}}
    assert result["resultType"] == "complete"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "label"


@pytest.mark.parametrize("how", [ask, modern])
def test_a_tool_is_described_by_types_and_docstring(client, how) -> None:
    (tool,) = how(client(), "tools/list").json()["result"]["tools"]
    assert tool["name"] == "label"
    assert tool["description"] == "Label a thing.\n\nReturns: its label."
    given = tool["inputSchema"]
    assert given["type"] == "object"
    assert given["required"] == ["name"]
    assert given["properties"]["name"]["description"] == "what it is called."
    assert given["properties"]["score"]["default"] == 0.5
    assert tool["outputSchema"]["type"] == "object"
    assert "#/components" not in json.dumps(tool)
    for schema in (given, tool["outputSchema"]):
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("how", [ask, modern])
def test_a_call_returns_structured_content_and_text(client, how) -> None:
    ready = client()
    result = call(ready, "label", {"name": "hat"}, how)
    expected = {
        "name": "hat",
        "score": 0.5,
        "parts": [{"name": "part", "score": None, "parts": []}],
    }
    assert result["structuredContent"] == expected
    (text,) = result["content"]
    assert text["type"] == "text"
    assert json.loads(text["text"]) == expected
    (tool,) = how(ready, "tools/list").json()["result"]["tools"]
    jsonschema.validate(result["structuredContent"], tool["outputSchema"])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(str, "größe"), (float, 1.5), (list[int], [1, 2]), (bool, True), (int | None, None)],
)
def test_a_result_that_is_no_object_has_a_key(client, annotation, value) -> None:
    ready = client(echo(annotation))
    result = call(ready, "echoed", {"x": value})
    assert result["structuredContent"] == {"result": value}
    text = result["content"][0]["text"]
    assert text == value if isinstance(value, str) else json.loads(text) == value
    (tool,) = ask(ready, "tools/list").json()["result"]["tools"]
    jsonschema.validate(result["structuredContent"], tool["outputSchema"])


def test_a_list_of_models_refers_to_its_own_definitions(client) -> None:
    ready = client(echo(list[Label]))
    value = [{"name": "a", "score": 1.0, "parts": [{"name": "b", "score": 2.0, "parts": []}]}]
    result = call(ready, "echoed", {"x": value})
    assert result["structuredContent"] == {"result": value}
    (tool,) = ask(ready, "tools/list").json()["result"]["tools"]
    jsonschema.validate({"x": value}, tool["inputSchema"])
    jsonschema.validate(result["structuredContent"], tool["outputSchema"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"result": [{"name": 1}]}, tool["outputSchema"])


def test_a_picture_is_image_content(client) -> None:
    png = Image.open(np.zeros((4, 6, 3), np.uint8)).thumbnail_png()
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    ready = client(inverted)
    result = call(ready, "inverted", {"image": url})
    (content,) = result["content"]
    assert content["type"] == "image"
    assert content["mimeType"] == "image/png"
    picture = Image.open(base64.b64decode(content["data"]))
    assert picture.pixels.min() == 255
    assert "structuredContent" not in result
    (tool,) = ask(ready, "tools/list").json()["result"]["tools"]
    assert "outputSchema" not in tool


def test_bytes_are_a_resource(client) -> None:
    url = "data:application/octet-stream;base64," + base64.b64encode(b"abc").decode()
    (content,) = call(client(echo(bytes)), "echoed", {"x": url})["content"]
    assert content["type"] == "resource"
    assert base64.b64decode(content["resource"]["blob"]) == b"abc"


@pytest.mark.parametrize("how", [ask, modern])
@pytest.mark.parametrize(
    "arguments", [{"name": "bad"}, {"name": "boom"}, {"name": "full"}, {"score": "x"}, {}]
)
def test_a_call_that_fails_says_what_the_api_does(client, how, arguments) -> None:
    ready = client()
    result = call(ready, "label", arguments, how)
    assert result["isError"]
    problem = ready.post("/label", json=arguments).json()
    text = result["content"][0]["text"]
    assert text.startswith(problem["detail"])
    assert "secret" not in text
    assert ("(failure " in text) == ("failure_id" in problem)
    assert "structuredContent" not in result


@pytest.mark.parametrize("header", ["X-Request-Timeout-Seconds", "X-Priority"])
def test_headers_of_a_call_are_its_terms(client, header) -> None:
    params = {"name": "label", "arguments": {"name": "a"}}
    result = ask(client(), "tools/call", params, **{header: "nonsense"}).json()["result"]
    assert header in result["content"][0]["text"]


def test_a_call_takes_a_place_and_a_list_does_not(client, monkeypatch) -> None:
    monkeypatch.setattr(Served, "is_full", lambda *_: True)
    ready = client()
    assert ask(ready, "tools/list").status_code == 200
    result = call(ready, "label", {"name": "a"})
    assert result["isError"]
    assert "too many requests in flight" in result["content"][0]["text"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32602),
        (b"[" * 100_000, -32700),
    ],
)
def test_what_is_no_message_is_refused(client, body, code) -> None:
    response = client().post("/mcp", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    assert response.json()["jsonrpc"] == "2.0"


@pytest.mark.parametrize(
    ("method", "params", "code", "status"),
    [
        ("resources/list", {}, -32601, 404),
        ("ping", {}, -32601, 404),
        ("initialize", {}, -32601, 404),
        ("tools/call", {"name": "other"}, -32602, 400),
        ("tools/call", {"name": "label", "arguments": [1]}, -32602, 400),
    ],
)
def test_errors_of_the_protocol(client, method, params, code, status) -> None:
    response = modern(client(), method, params)
    assert (response.json()["error"]["code"], response.status_code) == (code, status)
    assert response.json()["id"] == 1
    if method not in ("ping", "initialize"):
        response = ask(client(), method, params)
        assert (response.json()["error"]["code"], response.status_code) == (code, 200)


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp_protocol_version": "2025-11-25"},
        {"mcp_method": "tools/list"},
        {"mcp_name": "other"},
        {"mcp_name": "=?base64?!?="},
    ],
)
def test_headers_that_contradict_the_body_are_refused(client, headers) -> None:
    params = {"name": "label", "arguments": {"name": "a"}}
    response = modern(client(), "tools/call", params, **headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32020


def test_a_name_in_a_header_may_be_encoded(client) -> None:
    params = {"name": "label", "arguments": {"name": "a"}}
    encoded = "=?base64?" + base64.b64encode(b"label").decode() + "?="
    assert modern(client(), "tools/call", params, mcp_name=encoded).status_code == 200


def test_versions_that_are_not_supported_are_refused(client) -> None:
    response = ask(client(), "ping", mcp_protocol_version="1900-01-01")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == -32022
    assert error["data"] == {"supported": list(VERSIONS), "requested": "1900-01-01"}
    # The header alone does not make a message one without a handshake.
    response = ask(client(), "ping", mcp_protocol_version=MODERN)
    assert response.json()["error"]["code"] == -32020


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_are_no_streams_and_no_sessions(client, method) -> None:
    response = client().request(method, "/mcp")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


def test_a_token_is_needed(client) -> None:
    ready = client(token=TOKEN)
    assert ask(ready, "tools/list").status_code == 401
    assert ready.get("/mcp").status_code == 401
    assert ask(ready, "tools/list", authorization=f"Bearer {TOKEN}").status_code == 200


def test_large_bodies_are_refused(client) -> None:
    ready = client(limits=Limits(max_body_bytes=1000))
    response = ask(ready, "tools/call", {"name": "label", "arguments": {"name": "a" * 2000}})
    assert response.status_code == 413


def test_a_pipeline_of_a_route_is_a_tool_too(client) -> None:
    from mlkit.serving import served

    shop = FastAPI()

    @shop.post("/shop")
    async def sell(called=Depends(served(inverted))) -> int:
        return 1

    tools = ask(client(fastapi=shop), "tools/list").json()["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["label", "inverted"]


def test_an_application_keeps_its_own_route(client) -> None:
    shop = FastAPI()

    @shop.post("/mcp")
    async def own() -> str:
        return "mine"

    assert ask(client(fastapi=shop), "ping").json() == "mine"
    guarded = FastAPI(dependencies=[Depends(lambda: None)])
    assert ask(client(fastapi=guarded), "ping").status_code == 404
