"""Named tokens at an app's door: who they let in, where, and how often."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse

from mlkit import pipeline, step
from mlkit.errors import DefinitionError
from mlkit.execute import Executor, compile_graph
from mlkit.serving import requires
from mlkit.serving.grants import SCOPES, Grant, digest_of
from mlkit.serving.http.holders import Holders
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.jobs import Jobs
from mlkit.serving.http.jobstore import MEMORY, JobStore
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.limits import Limits


@step
def same(x: int) -> int:
    return x


@pipeline
def echo(x: int) -> int:
    return same(x)


def grant(token: str, **fields) -> Grant:
    return Grant(**{"name": token, "digest": digest_of(token.encode()), **fields})


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def no_metrics(openmetrics: bool) -> bytes:
    return b""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holders(clock) -> Holders:
    holders = Holders(clock)
    holders.replace(grant(scope, scopes=(scope,)) for scope in SCOPES)
    return holders


@pytest.fixture
def client(holders):
    shop = FastAPI()

    @shop.get("/sku/{sku}")
    async def sku(sku: str) -> str:
        return sku

    @shop.post("/reindex", dependencies=[Depends(requires("control"))])
    async def reindex() -> str:
        return "done"

    @shop.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(",".join(socket.scope["subprotocols"]))
        await socket.close()

    @shop.websocket("/admin", dependencies=[Depends(requires("control"))])
    async def admin(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    with ExitStack() as stack:
        executor = stack.enter_context(Executor(compile_graph(echo.graph), workers=1))
        served = Served(executor)
        app = create_app(
            echo.graph,
            lambda: served,
            Limits(),
            "the-owners",
            fastapi=shop,
            metrics=no_metrics,
            holders=holders,
            jobs=Jobs(echo.graph, lambda: served, Limits(), JobStore(MEMORY)),
        )
        yield TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


CALL = [
    ("POST", "/echo"),
    ("GET", "/sku/1"),
    ("GET", "/nowhere"),
    ("POST", "/v2/models/echo/infer"),
]
OBSERVE = [
    *(("GET", path) for path in ("/metrics", "/docs", "/openapi.json", "/echo/metrics", "/v2")),
    ("GET", "/v2/models/echo"),
]
PUBLIC = [("GET", path) for path in ("/healthz", "/readyz", "/v2/health/live")]


def status(client, token: str, method: str, path: str, header: str = "authorization") -> int:
    value = f"Bearer {token}" if header == "authorization" else token
    body = {"x": 1} if method == "POST" else None
    return client.request(method, path, json=body, headers={header: value}).status_code


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        *((*each, "call") for each in CALL),
        *((*each, "observe") for each in OBSERVE),
        *((*each, None) for each in PUBLIC),
    ],
)
def test_a_token_goes_where_its_scope_goes(client, method, path, needed) -> None:
    expected = status(client, "the-owners", method, path)
    assert expected not in (401, 403)
    for scope in SCOPES:
        let_in = needed in (None, scope)
        assert status(client, scope, method, path) == (expected if let_in else 403), scope


@pytest.mark.parametrize("header", ["authorization", "x-mlkit-token"])
def test_an_unknown_token_is_401_and_a_lacking_scope_is_a_403_problem(client, header) -> None:
    assert status(client, "unknown", "POST", "/echo", header) == 401
    assert status(client, "call", "POST", "/echo", header) == 200
    refused = client.get("/metrics", headers={"authorization": "Bearer call"})
    assert refused.headers["content-type"] == "application/problem+json"
    assert (
        refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="observe"'
    )
    assert refused.json()["detail"] == "the token 'call' lacks the scope 'observe'"


def test_a_revoked_token_is_unknown_from_then_on(client, holders) -> None:
    assert status(client, "call", "POST", "/echo") == 200
    holders.replace([])
    assert status(client, "call", "POST", "/echo") == 401
    assert status(client, "the-owners", "POST", "/echo") == 200


def test_neither_a_digest_nor_a_name_is_a_token(client, holders) -> None:
    holders.replace([grant("secret", name="mobile")])
    for text in (digest_of(b"secret"), "mobile", "", "SECRET", "secret "):
        assert status(client, text, "POST", "/echo", "x-mlkit-token") == 401, text
    assert status(client, "secret", "POST", "/echo") == 200


def test_a_route_of_the_users_can_need_control(client, holders) -> None:
    holders.replace([grant("a"), grant("b", scopes=("call", "control"))])
    statuses = [status(client, token, "POST", "/reindex") for token in ("a", "b", "the-owners")]
    assert statuses == [403, 200, 200]


def test_a_dependency_on_an_unknown_scope_is_refused() -> None:
    with pytest.raises(DefinitionError, match="unknown scope"):
        requires("admin")


def test_beyond_its_rate_a_token_is_429_with_the_wait(client, holders, clock) -> None:
    holders.replace([grant("slow", rate=0.5, burst=2), grant("other")])

    def ask(token: str = "slow"):
        headers = {"authorization": f"Bearer {token}"}
        return client.post("/echo", json={"x": 1}, headers=headers)

    assert [ask().status_code for _ in range(3)] == [200, 200, 429]
    refused = ask()
    assert refused.headers["retry-after"] == "2"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["status"] == 429
    assert ask("other").status_code == ask("the-owners").status_code == 200
    clock.now += float(refused.headers["retry-after"])
    assert [ask().status_code for _ in range(2)] == [200, 429]


def test_health_costs_no_request_and_a_wrong_scope_neither(client, holders) -> None:
    holders.replace([grant("slow", rate=0.001, burst=1)])
    for method, path in PUBLIC:
        assert status(client, "slow", method, path) == 200
    assert status(client, "slow", "GET", "/metrics") == 403
    assert status(client, "slow", "POST", "/echo") == 200


def test_what_was_used_up_counts_on_when_other_tokens_change(client, holders) -> None:
    slow = grant("slow", rate=0.001, burst=1)
    holders.replace([slow])
    assert status(client, "slow", "POST", "/echo") == 200
    holders.replace([slow, grant("other")])
    assert status(client, "slow", "POST", "/echo") == 429
    holders.replace([])
    holders.replace([slow])
    assert status(client, "slow", "POST", "/echo") == 200


def test_a_websocket_takes_a_named_token_as_its_subprotocol(client, holders) -> None:
    with client.websocket_connect("/live", subprotocols=["bearer", "call", "chat"]) as socket:
        assert socket.receive_text() == "chat"
    for token, expected in (("observe", 403), ("unknown", 401)):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect("/live", subprotocols=["bearer", token]),
        ):
            pass
        assert refused.value.status_code == expected


def test_a_websocket_can_require_a_scope(client, holders) -> None:
    holders.replace([grant("call"), grant("control", scopes=("call", "control"))])
    with client.websocket_connect("/admin", subprotocols=["bearer", "control"]):
        pass
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/admin", subprotocols=["bearer", "call"]),
    ):
        pass
    assert refused.value.status_code == 403


@pytest.mark.parametrize("path", ["/jobs", "/echo/jobs", "/echo/jobs/none", "/jobs/none/results"])
def test_jobs_are_called_not_observed(client, path) -> None:
    assert status(client, "observe", "GET", path) == 403
    assert status(client, "call", "GET", path) in (200, 404)


def test_the_document_declares_what_tokens_are_refused_with(client) -> None:
    paths = client.get("/openapi.json", headers={"authorization": "Bearer observe"}).json()["paths"]
    for operation in (paths["/echo"]["post"], paths["/metrics"]["get"]):
        assert {"401", "403", "429"} <= operation["responses"].keys()
    assert "Retry-After" in json.dumps(paths["/echo"]["post"]["responses"]["429"])


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", "application/openmetrics"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4"),
    ],
)
def test_a_scraper_gets_the_format_that_it_accepts(client, accept: str, kind: str) -> None:
    headers = {"authorization": "Bearer the-owners", "accept": accept}
    assert client.get("/metrics", headers=headers).headers["content-type"].startswith(kind)
