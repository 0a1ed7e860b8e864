"""Pages in a browser: preflights, errors that they may read, and websockets."""

from __future__ import annotations

import pytest
from fastapi import Depends, FastAPI, Request, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from mlkit import InputError, pipeline, step
from mlkit.errors import DeadlineExceeded, Overloaded
from mlkit.serving import Limits, asgi, served

PAGE, OTHER = "https://shop.example", "https://other.example"
TOKEN = "t0ken"
KEY = {"authorization": f"Bearer {TOKEN}"}
PREFLIGHT = {"origin": PAGE, "access-control-request-method": "POST"}
ERRORS = {"bad": InputError, "full": Overloaded, "late": DeadlineExceeded, "boom": ValueError}


@step
def split(text: str) -> list[str]:
    if text in ERRORS:
        raise ERRORS[text]("no")
    return text.split()


@pipeline
def words(text: str) -> list[str]:
    return split(text)


class Shop(FastAPI):
    """An application that notes which of its code runs."""

    def __init__(self, *, cors: type[CORSMiddleware] | None = CORSMiddleware) -> None:
        super().__init__(exception_handlers={KeyError: answer_key_error})
        self.seen: list[str] = []
        seen = self.seen

        @self.middleware("http")
        async def watch(request: Request, call_next) -> Response:
            seen.append(request.method)
            return await call_next(request)

        if cors is not None:
            self.add_middleware(
                cors, allow_origins=[PAGE], allow_methods=["POST"], allow_headers=["authorization"]
            )

        @self.api_route("/hello", methods=["GET", "OPTIONS"])
        def hello() -> str:
            seen.append("route")
            return "hi"

        @self.get("/broken/{kind}")
        def broken(kind: str) -> str:
            raise {"key": KeyError, "value": ValueError}[kind]("no")

        @self.websocket("/live")
        async def live(socket: WebSocket) -> None:
            seen.append("socket")
            offered = socket["subprotocols"]
            await socket.accept(subprotocol="chat" if "chat" in offered else None)
            await socket.send_json([offered, socket.headers.get("sec-websocket-protocol")])
            await socket.close()


async def answer_key_error(request: Request, error: Exception) -> Response:
    return Response("mine", 418)


@pytest.fixture
def page():
    """Returns a function: application to a client of it that needs the token."""

    def make(shop: FastAPI, **options) -> TestClient:
        app = asgi(words, fastapi=shop, **{"token": TOKEN, **options})
        return TestClient(app, raise_server_exceptions=False)

    return make


@pytest.mark.parametrize("path", ["/words", "/hello", "/nowhere", "/docs", "/healthz"])
def test_a_preflight_needs_no_token_and_runs_no_other_code(page, path) -> None:
    shop = Shop()
    answer = page(shop).options(path, headers=PREFLIGHT)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert shop.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": OTHER},
        {"access-control-request-method": "DELETE"},
        {"access-control-request-headers": "x-other"},
    ],
)
def test_a_preflight_that_is_not_allowed_runs_no_other_code(page, headers) -> None:
    shop = Shop()
    answer = page(shop).options("/hello", headers={**PREFLIGHT, **headers})
    assert answer.status_code == 400
    assert shop.seen == []


@pytest.mark.parametrize("missing", ["origin", "access-control-request-method"])
def test_an_options_request_that_is_no_preflight_needs_the_token(page, missing) -> None:
    shop = Shop()
    headers = {name: value for name, value in PREFLIGHT.items() if name != missing}
    assert page(shop).options("/hello", headers=headers).status_code == 401
    assert shop.seen == []
    assert page(shop).options("/hello", headers={**headers, **KEY}).json() == "hi"


def test_without_cors_a_preflight_needs_the_token(page) -> None:
    shop = Shop(cors=None)
    assert page(shop).options("/hello", headers=PREFLIGHT).status_code == 401
    assert shop.seen == []


def test_the_cors_middleware_of_a_mounted_application_sees_no_preflight(page) -> None:
    shop, sub = FastAPI(), Shop()
    shop.mount("/sub", sub)
    client = page(shop)
    assert client.options("/sub/hello", headers=PREFLIGHT).status_code == 401
    assert sub.seen == []
    answer = client.get("/sub/hello", headers={"origin": PAGE, **KEY})
    assert answer.headers["access-control-allow-origin"] == PAGE


class Passing(CORSMiddleware):
    """Passes preflights on, which the original never does."""

    async def __call__(self, scope, receive, send) -> None:
        await self.app(scope, receive, send)


def test_a_cors_middleware_that_passes_preflights_on_opens_nothing(page) -> None:
    shop = Shop(cors=Passing)
    assert page(shop).options("/hello", headers=PREFLIGHT).status_code == 401
    assert shop.seen == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "TRACE"])
def test_only_options_is_a_preflight(page, method) -> None:
    shop = Shop()
    assert page(shop).request(method, "/hello", headers=PREFLIGHT).status_code == 401
    assert shop.seen == []


def json(text: str) -> dict[str, object]:
    return {"json": {"text": text}, "headers": KEY}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/words", {}, 401),
        ("GET", "/hello", {}, 401),
        ("GET", "/nowhere", {"headers": KEY}, 404),
        ("PUT", "/words", {"headers": KEY}, 405),
        ("POST", "/words", {"content": b"x" * 2000, "headers": KEY}, 413),
        ("GET", "/hello", {"content": b"x" * 2000, "headers": KEY}, 413),
        ("POST", "/words", {"content": b"x", "headers": KEY}, 415),
        ("POST", "/words", {"json": {}, "headers": KEY}, 422),
        ("POST", "/words", json("bad"), 422),
        ("POST", "/words", json("full"), 503),
        ("POST", "/words", json("late"), 504),
        ("POST", "/words", json("boom"), 500),
        ("GET", "/broken/key", {"headers": KEY}, 418),
        ("GET", "/broken/value", {"headers": KEY}, 500),
        ("POST", "/words", json("a b"), 200),
    ],
)
def test_a_page_may_read_every_answer(page, method, path, options, status) -> None:
    client = page(Shop(), limits=Limits(max_body_bytes=1000))
    headers = {"origin": PAGE, **options.pop("headers", {})}
    answer = client.request(method, path, headers=headers, **options)
    assert answer.status_code == status
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    assert answer.headers.get_list("vary") == ["Origin"]


def test_a_page_may_read_what_a_catch_all_handler_answers(page) -> None:
    shop = Shop()
    shop.add_exception_handler(Exception, answer_key_error)
    answer = page(shop).get("/broken/value", headers={"origin": PAGE, **KEY})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (418, PAGE)


def test_a_page_of_another_origin_may_not_read_an_answer(page) -> None:
    answer = page(Shop()).get("/hello", headers={"origin": OTHER})
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers


# ---- websockets ----------------------------------------------------------------------------------


def connect(client: TestClient, protocols: list[str], **headers: str) -> tuple[str | None, list]:
    with client.websocket_connect("/live", subprotocols=protocols, headers=headers) as socket:
        return socket.accepted_subprotocol, socket.receive_json()


def refusal(client: TestClient, protocols: list[str], **headers: str) -> int:
    with pytest.raises(WebSocketDenialResponse) as refused:
        connect(client, protocols, **headers)
    return refused.value.status_code


@pytest.mark.parametrize(
    ("offered", "accepted", "own"),
    [
        (["bearer", TOKEN], "bearer", []),
        (["bearer", TOKEN, "chat"], "chat", ["chat"]),
        (["other", "bearer", TOKEN], "bearer", ["other"]),
    ],
)
def test_a_websocket_takes_the_token_as_a_subprotocol(page, offered, accepted, own) -> None:
    client = page(Shop())
    # The application does not see the token.
    assert connect(client, offered) == (accepted, [own, ", ".join(own) or None])


@pytest.mark.parametrize(
    "offered",
    [
        [],
        [TOKEN],
        ["bearer"],
        [TOKEN, "bearer"],
        ["bearer", "x"],
        ["bearer", "x", TOKEN],
        ["Bearer", TOKEN],
    ],
)
def test_a_websocket_without_the_token_is_refused(page, offered) -> None:
    shop = Shop()
    assert refusal(page(shop), offered) == 401
    assert shop.seen == []


@pytest.mark.parametrize("origin", [PAGE, "http://testserver", "https://testserver"])
def test_a_websocket_of_an_allowed_page_is_accepted(page, origin) -> None:
    assert connect(page(Shop()), ["bearer", TOKEN], origin=origin)[0] == "bearer"


@pytest.mark.parametrize("origin", [OTHER, "http://testserver.example", "null", ""])
def test_a_websocket_of_another_page_is_refused(page, origin) -> None:
    shop = Shop()
    assert refusal(page(shop), ["bearer", TOKEN], origin=origin) == 403
    assert shop.seen == []


def test_without_cors_a_websocket_of_another_page_is_refused(page) -> None:
    assert refusal(page(Shop(cors=None)), ["bearer", TOKEN], origin=PAGE) == 403


def test_a_subprotocol_is_no_credential_of_a_request(page) -> None:
    headers = {"sec-websocket-protocol": f"bearer, {TOKEN}"}
    assert page(Shop()).get("/hello", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("bad", 1007, "no"),
        ("full", 1013, "no"),
        ("boom", 1011, "the pipeline failed"),
    ],
)
def test_an_error_of_the_pipeline_closes_the_websocket_with_a_code(
    page, text, code, reason
) -> None:
    shop = FastAPI()

    @shop.websocket("/words")
    async def live(socket: WebSocket, words=Depends(served(words))) -> None:
        await socket.accept()
        await socket.send_json(await words(await socket.receive_text()))

    with page(shop, token=None).websocket_connect("/words") as socket:
        socket.send_text(text)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (code, reason)
