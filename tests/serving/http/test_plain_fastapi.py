"""An application answers as it does by itself, with a pipeline in it and without."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
    WebSocket,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBasicCredentials
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Route

from mlkit import pipeline, step
from mlkit.serving import asgi

PAGE = "https://shop.example"


@step
def split(text: str) -> list[str]:
    return text.split()


@pipeline
def tag(text: str) -> list[str]:
    return split(text)


class Size(StrEnum):
    small = "small"
    large = "large"


class Item(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="itemName")
    price: float | None = None
    size: Size = Size.small
    secret: str = "x"


class Public(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="itemName")
    price: float | None = None


class Failed(Exception):
    """An error that the application has a handler for."""


def shop(folder: Any) -> FastAPI:  # noqa: C901
    """Each kind of route, dependency, middleware and event."""
    seen: list[str] = []

    async def count(connection: HTTPConnection, response: Response) -> None:
        response.headers["x-counted"] = connection.url.path

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        seen.append("up")
        app.add_api_route("/late", lambda: "late", methods=["GET"])
        late = APIRouter(prefix="/late-router")
        late.add_api_route("/x", lambda: "x")
        app.include_router(late)
        app.state.ready = "yes"
        app.brand = "ours"
        yield {"since": "today"}
        seen.append("down")

    shop = FastAPI(
        title="Shop",
        version="7",
        lifespan=lifespan,
        dependencies=[Depends(count)],
        openapi_url="/api/openapi.json",
    )
    shop.state.schemas = {"mine": 1}

    @shop.middleware("http")
    async def mark(request: Request, call_next):
        try:
            response = await call_next(request)
        except LookupError:
            return PlainTextResponse("caught by a middleware", 410)
        response.headers["x-shop"] = request.url.path
        return response

    shop.add_middleware(GZipMiddleware, minimum_size=500)
    shop.add_middleware(
        CORSMiddleware,
        allow_origins=[PAGE],
        allow_methods=["*"],
        allow_headers=["x-a"],
        allow_credentials=True,
        expose_headers=["x-shop"],
    )
    shop.add_middleware(TrustedHostMiddleware, allowed_hosts=["testserver"])

    @shop.exception_handler(Failed)
    async def failed(request: Request, error: Failed) -> Response:
        return JSONResponse({"handled": str(error)}, 418, headers={"x-failed": "1"})

    @shop.get("/path/{day}/{key}/{rest:path}")
    def path(day: date, key: UUID, rest: str) -> dict[str, str]:
        return {"day": day.isoformat(), "key": str(key), "rest": rest}

    @shop.get("/query")
    def query(
        q: Annotated[list[str], Query()] = ["a"],  # noqa: B006
        size: Size = Size.small,
        limit: Annotated[int, Query(alias="max", le=10)] = 3,
        flag: bool = False,
    ) -> dict[str, Any]:
        return {"q": q, "size": size, "limit": limit, "flag": flag}

    @shop.get("/headers")
    def headers(
        user_agent: Annotated[str | None, Header()] = None,
        x_many: Annotated[list[str] | None, Header()] = None,
        session: Annotated[str | None, Cookie()] = None,
    ) -> list[Any]:
        return [user_agent, x_many, session]

    @shop.post("/form")
    def form(name: Annotated[str, Form()], tags: Annotated[list[str], Form()]) -> list[Any]:
        return [name, tags]

    @shop.post("/files")
    async def files(
        one: UploadFile, raw: Annotated[bytes, File()], note: str = Form("")
    ) -> list[Any]:
        return [one.filename, one.content_type, len(await one.read()), len(raw), note]

    @shop.post("/items", status_code=201, response_model=Public, response_model_by_alias=False)
    def items(item: Item, response: Response) -> Item:
        response.headers["location"] = f"/items/{item.name}"
        response.set_cookie("last", item.name)
        return item

    @shop.post("/lean", response_model_exclude_none=True)
    def lean(item: Item) -> Item:
        return item

    @shop.post("/unset", response_model_exclude_unset=True, response_model_exclude={"secret"})
    def unset(item: Annotated[Item, Body(embed=True)], n: Annotated[int, Body()]) -> Item:
        return item

    @shop.get("/sync-dependency")
    def sync_dependency(value: Annotated[str, Depends(lambda: "sub")]) -> str:
        return value

    async def resource():
        seen.append("open")
        try:
            yield "resource"
        finally:
            seen.append("closed")

    @shop.get("/yielded")
    async def yielded(value: str = Depends(resource)) -> str:
        return value

    @shop.get("/seen")
    def what() -> list[str]:
        return seen

    @shop.post("/later", status_code=202)
    def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(seen.append, "later")
        return "accepted"

    @shop.get("/state")
    def state(request: Request) -> list[Any]:
        return [
            request.state.since,
            request.app.state.ready,
            request.app.state.schemas,
            request.app.brand,
            request.app.title,
        ]

    @shop.get("/url")
    def url(request: Request) -> list[str]:
        return [
            str(request.url),
            str(request.base_url),
            str(request.url_for("path", day="2020-01-01", key="k", rest="a/b")),
            request.scope["root_path"],
            shop.url_path_for("query"),
        ]

    @shop.get("/empty", status_code=204)
    def empty() -> None:
        return None

    @shop.get("/none")
    def none() -> None:
        return None

    @shop.get("/html", response_class=HTMLResponse)
    def html() -> str:
        return "<p>é</p>"

    @shop.get("/redirect", response_class=RedirectResponse)
    def redirect() -> str:
        return "/query?q=b"

    @shop.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]), media_type="text/csv")

    @shop.get("/file")
    def file() -> FileResponse:
        return FileResponse(folder / "a.txt", filename="b.txt")

    @shop.get("/long")
    def long() -> str:
        return "x" * 2000

    @shop.api_route("/many", methods=["PUT", "PATCH", "DELETE"])
    def many(request: Request) -> str:
        return request.method

    @shop.head("/head")
    def head() -> Response:
        return Response(headers={"x-head": "1"})

    @shop.options("/options")
    def options() -> Response:
        return Response(headers={"allow": "GET"})

    @shop.get("/basic")
    def basic(user: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
        return user.username

    @shop.get("/key")
    def key(value: Annotated[str, Security(APIKeyHeader(name="x-key"))]) -> str:
        return value

    @shop.get("/failed")
    def raises() -> str:
        raise Failed("so")

    @shop.get("/lookup")
    def lookup() -> str:
        raise KeyError("so")

    @shop.get("/http/{status}")
    def http(status: int) -> str:
        detail: Any = {"code": status} if status % 2 else "why"
        raise HTTPException(status, detail, headers={"x-why": "so"})

    @shop.get("/tag/under/{name}")
    def under(name: str) -> str:
        return name

    @shop.get("/{kind}/list")
    def listed(kind: str) -> str:
        return kind

    @shop.websocket("/live/{room}")
    async def live(socket: WebSocket, room: str, q: str = "") -> None:
        await socket.accept(subprotocol="chat" if "chat" in socket["subprotocols"] else None)
        async for text in socket.iter_text():
            await socket.send_json([room, q, text])

    def versioned(request: Request, x_tenant: Annotated[str, Header()] = "nobody") -> None:
        request.state.tenant = x_tenant

    router = APIRouter(prefix="/v1", dependencies=[Depends(versioned)], tags=["v1"])
    inner = APIRouter()

    @inner.get("/who")
    def who(request: Request) -> str:
        return request.state.tenant

    router.include_router(inner, prefix="/inner")
    shop.include_router(router)

    sub = FastAPI(title="Sub")

    @sub.get("/hello")
    def hello(request: Request) -> list[str]:
        return [request.scope["root_path"], request.app.title, str(request.url_for("hello"))]

    @sub.exception_handler(Failed)
    def sub_failed(request: Request, error: Failed) -> Response:
        return PlainTextResponse("sub", 419)

    @sub.get("/failed")
    def sub_raises() -> str:
        raise Failed("so")

    shop.mount("/sub", sub)
    shop.mount("/static", StaticFiles(directory=folder), name="static")
    shop.mount("/raw", Starlette(routes=[Route("/x", lambda request: PlainTextResponse("raw"))]))
    return shop


@dataclass
class Call:
    """A request, and what to compare."""

    path: str
    method: str = "GET"
    options: dict[str, Any] = field(default_factory=dict)
    after: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


ITEM = {"itemName": "a"}
ORIGIN = {"origin": PAGE}
PREFLIGHT = {**ORIGIN, "access-control-request-method": "PUT"}
MANY = {"headers": [("x-many", "a"), ("x-many", "b"), ("cookie", "session=s")]}
CALLS = [
    Call("/path/2020-01-02/00000000-0000-0000-0000-000000000001/a/b%20c"),
    Call("/query"),
    Call("/query?q=x&q=y&size=large&max=5&flag=on"),
    Call(
        "/headers", options={"headers": [("x-many", "a"), ("x-many", "b"), ("cookie", "session=s")]}
    ),
    Call("/form", "POST", {"data": {"name": "n", "tags": ["a", "b"]}}),
    Call("/files", "POST", {"files": {"one": ("a.txt", b"12", "text/x"), "raw": b"123"}}),
    Call("/items", "POST", {"json": {**ITEM, "price": 2}}),
    Call("/lean", "POST", {"json": ITEM}),
    Call("/unset", "POST", {"json": {"item": ITEM, "n": 1}}),
    Call("/sync-dependency"),
    Call("/yielded", after="/seen"),
    Call("/later", "POST", after="/seen"),
    Call("/state"),
    Call("/url?a=b"),
    Call("/empty"),
    Call("/none"),
    Call("/html"),
    Call("/redirect"),
    Call("/stream"),
    Call("/file", options={"headers": {"range": "bytes=0-2"}}),
    Call("/file"),
    Call("/long"),
    Call("/many", "PUT"),
    Call("/many", "DELETE"),
    Call("/head", "HEAD"),
    Call("/options", "OPTIONS"),
    Call("/basic", options={"auth": ("me", "pw")}),
    Call("/key", options={"headers": {"x-key": "k"}}),
    Call("/failed"),
    Call("/lookup"),
    Call("/late"),
    Call("/late-router/x"),
    Call("/query/"),
    Call("/v1/inner/who", options={"headers": {"x-tenant": "me"}}),
    Call("/sub/hello"),
    Call("/sub/failed"),
    Call("/sub/nothing"),
    Call("/sub/openapi.json"),
    Call("/static/a.txt"),
    Call("/raw/x"),
    Call("/tag/under/me"),
    Call("/tag/list"),
    Call("/other/list"),
    Call("/query", options={"headers": ORIGIN}),
    Call("/query", options={"headers": {"origin": "https://other.example"}}),
    Call("/failed", options={"headers": ORIGIN}),
    Call("/query", "OPTIONS", {"headers": PREFLIGHT}),
    Call("/nowhere", "OPTIONS", {"headers": PREFLIGHT}),
    Call("/query", "OPTIONS", {"headers": {**PREFLIGHT, "origin": "https://other.example"}}),
    Call("/query", "OPTIONS", {"headers": {**PREFLIGHT, "access-control-request-headers": "x-b"}}),
]

# What a client sees in an error: more than FastAPI says, with the same status and headers.
PROBLEMS = [
    Call("/query?max=11"),
    Call("/query?max=x"),
    Call("/nowhere"),
    Call("/many", "GET"),
    Call("/http/404"),
    Call("/http/409"),
    Call("/http/503"),
    Call("/basic"),
    Call("/key"),
    Call("/items", "POST", {"content": b"{", "headers": {"content-type": "application/json"}}),
    Call("/items", "POST", {"json": {}}),
    Call("/static/no.txt"),
]


PROBLEM = {"content-type": "application/problem+json"}


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """The application by itself, and with a pipeline in it."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.txt").write_text("hello")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                TestClient(app, follow_redirects=False, raise_server_exceptions=False)
            )
            for app in (shop(folder), asgi(tag, fastapi=shop(folder)))
        ]


def ask(client: TestClient, call: Call) -> list[Any]:
    answers = [client.request(call.method, call.path, **call.options)]
    if call.after is not None:
        answers.append(client.get(call.after))
    return answers


def headers_of(answer: Any) -> list[tuple[str, str]]:
    return sorted(
        (name, value)
        for name, value in answer.headers.multi_items()
        if name not in ("content-length", "last-modified", "etag")
    )


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_an_application_answers_as_by_itself(clients, call) -> None:
    plain, served = (ask(client, call) for client in clients)
    assert [a.status_code for a in served] == [a.status_code for a in plain]
    assert [a.content for a in served] == [a.content for a in plain]
    assert [headers_of(a) for a in served] == [headers_of(a) for a in plain]


@pytest.mark.parametrize("call", PROBLEMS, ids=str)
def test_an_error_is_a_problem_document_with_fastapis_status_and_headers(clients, call) -> None:
    plain, served = (ask(client, call)[0] for client in clients)
    assert served.status_code == plain.status_code
    assert served.headers["content-type"] == "application/problem+json"
    kind = ("content-type", "application/problem+json")
    expected = [
        kind if name == "content-type" else (name, value) for name, value in headers_of(plain)
    ]
    assert headers_of(served) == expected
    detail, errors = plain.json()["detail"], served.json().get("errors")
    if errors is None:
        assert served.json()["detail"] == detail
    else:
        assert served.json()["detail"] == detail[0]["msg"]
        assert [error["loc"] for error in errors] == [["request", *each["loc"]] for each in detail]


@pytest.mark.parametrize("protocols", [None, ["chat"]])
def test_a_websocket_answers_as_by_itself(clients, protocols) -> None:
    answers = []
    for client in clients:
        with client.websocket_connect("/live/one?q=a", subprotocols=protocols) as socket:
            socket.send_text("hello")
            answers.append((socket.accepted_subprotocol, socket.receive_json()))
    assert answers[0] == answers[1] == (protocols and "chat", ["one", "a", "hello"])


def test_a_lifespan_runs_once(clients) -> None:
    for client in clients:
        assert client.get("/seen").json().count("up") == 1


def test_a_page_may_read_what_a_middleware_around_cors_answers(clients) -> None:
    plain, served = (
        client.get("/query", headers={"host": "evil.example", **ORIGIN}) for client in clients
    )
    assert (served.status_code, served.content) == (plain.status_code, plain.content)
    assert "access-control-allow-origin" not in plain.headers
    assert served.headers["access-control-allow-origin"] == PAGE
