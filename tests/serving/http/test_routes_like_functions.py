"""A route that depends on a pipeline answers as one that depends on the plain function."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Annotated, Any

import anyio.from_thread
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

from mlkit import pipeline, step
from mlkit.serving import asgi, served


class Tags(BaseModel):
    words: list[str]
    size: int = 0


class SoldOut(Exception):
    pass


def tagged(text: str, files: list[bytes] = []) -> Tags:  # noqa: B006
    if text == "sold":
        raise SoldOut(text)
    return Tags(words=text.split(), size=sum(map(len, files)))


@step
def tag_text(text: str, files: list[bytes]) -> Tags:
    return tagged(text, files)


@pipeline
def tag(text: str, files: list[bytes] = []) -> Tags:  # noqa: B006
    return tag_text(text, files)


async def plain() -> Callable[..., Any]:
    """The function, called in a thread or awaited on the event loop, as a pipeline is."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return tagged(*args, **kwargs)
        return on_loop(*args, **kwargs)

    async def on_loop(*args: Any, **kwargs: Any) -> Tags:
        return tagged(*args, **kwargs)

    return call


Application = tuple[FastAPI, list[tuple[Any, ...]]]


def with_yield(dependency: Any) -> Application:
    app, log = FastAPI(), []

    async def session(tag=Depends(dependency)):
        log.append("open")
        yield tag
        log.append((await tag("at the end")).words)

    def words(tag=Depends(dependency)):
        yield tag("a b").words
        log.append("closed")

    @app.get("/words")
    async def read(q: str, session=Depends(session), words=Depends(words)) -> list[str]:
        return (await session(q)).words + words

    @app.get("/log")
    def read_log() -> list[Any]:
        return log

    return app, [("GET", "/words?q=x y"), ("GET", "/log")]


def with_classes(dependency: Any) -> Application:
    app = FastAPI()

    class Tagger:
        def __init__(self, tag=Depends(dependency), prefix: str = "p"):
            self.tag, self.prefix = tag, prefix

    class First:
        def __init__(self, n: int) -> None:
            self.n = n

        async def __call__(self, q: str, tag=Depends(dependency)) -> list[str]:
            return (await tag(q)).words[: self.n]

    def count(words: Annotated[list[str], Depends(First(5))]) -> int:
        return len(words)

    @app.get("/tagger")
    async def tagger(q: str, tagger: Annotated[Tagger, Depends()]) -> Tags:
        return await tagger.tag(f"{tagger.prefix} {q}")

    @app.get("/first")
    def first(words: Annotated[list[str], Depends(First(2))], n: int = Depends(count)) -> Any:
        return [words, n]

    return app, [("GET", "/tagger?q=x&prefix=z"), ("GET", "/first?q=a b c")]


def with_uploads(dependency: Any) -> Application:
    app = FastAPI()

    @app.post("/files")
    async def several(
        files: list[UploadFile], text: Annotated[str, Form()], tag=Depends(dependency)
    ) -> Tags:
        return await tag(text, [await file.read() for file in files])

    @app.post("/bytes")
    def as_bytes(files: Annotated[list[bytes], File()], tag=Depends(dependency)) -> Tags:
        return tag("x", files=files)

    @app.post("/raw")
    async def raw(request: Request, tag=Depends(dependency)) -> Tags:
        return await tag("x", [part async for part in request.stream()])

    files = [("files", ("a", b"12")), ("files", ("b", b"345"))]
    return app, [
        ("POST", "/files", {"files": files, "data": {"text": "x y"}}),
        ("POST", "/bytes", {"files": files}),
        ("POST", "/raw", {"content": b"123"}),
    ]


def with_streams(dependency: Any) -> Application:
    app, texts = FastAPI(), ["a b", "c"]

    @app.get("/sync", response_class=StreamingResponse)
    def sync(tag=Depends(dependency)) -> Any:
        return StreamingResponse(tag(text).model_dump_json() for text in texts)

    @app.get("/async", response_class=StreamingResponse)
    async def on_loop(tag=Depends(dependency)) -> Any:
        async def lines():
            for text in texts:
                yield (await tag(text)).model_dump_json()

        return StreamingResponse(lines())

    @app.get("/yields")
    async def yields(tag=Depends(dependency)) -> AsyncIterable[Tags]:
        for text in texts:
            yield await tag(text)

    @app.get("/yields-in-thread")
    def yields_in_thread(tag=Depends(dependency)) -> Iterable[Tags]:
        for text in texts:
            yield tag(text)

    return app, [("GET", f"/{path}") for path in ("sync", "async", "yields", "yields-in-thread")]


def with_handlers(dependency: Any) -> Application:
    app = FastAPI()

    @app.exception_handler(SoldOut)
    async def sold_out(request: Request, error: SoldOut) -> Response:
        return JSONResponse({"sold": str(error)}, 410)

    @app.get("/async")
    async def on_loop(q: str, tag=Depends(dependency)) -> Tags:
        return await tag(q)

    @app.get("/plain")
    def in_thread(q: str, tag=Depends(dependency)) -> Tags:
        return tag(q)

    return app, [("GET", "/async?q=sold"), ("GET", "/plain?q=sold"), ("GET", "/plain?q=x")]


def with_middleware(dependency: Any) -> Application:
    app = FastAPI()

    @app.middleware("http")
    async def measure(request: Request, call_next: Any) -> Response:
        length = len(await request.body())
        response = await call_next(request)
        body = b"".join([part async for part in response.body_iterator])
        headers = {**response.headers, "x-lengths": f"{length} {len(body)}"}
        return Response(body, response.status_code, headers)

    class User(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            request.state.user = request.headers.get("x-user", "nobody")
            return await call_next(request)

    app.add_middleware(User)

    class Timed(APIRoute):
        def get_route_handler(self) -> Any:
            handle = super().get_route_handler()

            async def timed(request: Request) -> Response:
                response = await handle(request)
                response.headers["x-timed"] = "yes"
                return response

            return timed

    app.router.route_class = Timed

    @app.post("/words")
    async def read(
        request: Request, text: Annotated[str, Body(embed=True)], tag=Depends(dependency)
    ) -> Tags:
        return await tag(f"{text} {request.state.user}")

    return app, [("POST", "/words", {"json": {"text": "x"}, "headers": {"x-user": "me"}})]


def with_models(dependency: Any) -> Application:
    app = FastAPI(generate_unique_id_function=lambda route: f"{route.tags[0]}-{route.name}")
    router = APIRouter(prefix="/v1", tags=["v1"])
    Tagger = Annotated[Any, Depends(dependency)]  # noqa: N806 - a type

    class Item(BaseModel):
        text: str
        n: int = 1

    class Headers(BaseModel):
        x_user: str

    @router.post("/form")
    async def form(item: Annotated[Item, Form()], tag: Tagger) -> Tags:
        return await tag(item.text * item.n)

    @router.get("/query")
    def query(item: Annotated[Item, Query()], headers: Annotated[Headers, Header()], tag: Tagger):
        return {"tags": [tag(item.text)], "user": headers.x_user}

    @router.put("/words", status_code=201, response_model=Tags, response_model_exclude={"size"})
    async def put(response: Response, tag: Tagger) -> Any:
        response.headers["x-n"] = "1"
        return await tag("x")

    app.include_router(router)
    app.include_router(router, prefix="/again")
    return app, [
        ("POST", "/v1/form", {"data": {"text": "a ", "n": 2}}),
        ("GET", "/again/v1/query?text=a b", {"headers": {"x-user": "me"}}),
        ("PUT", "/v1/words"),
    ]


def with_lifespan(dependency: Any) -> Application:
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.count = 0
        yield {"labels": ["a"]}

    app = FastAPI(lifespan=lifespan)

    @app.get("/state")
    async def state(request: Request, tag=Depends(dependency)) -> list[Any]:
        request.app.state.count += 1
        return [request.state.labels, request.app.state.count, (await tag("x")).words]

    return app, [("GET", "/state"), ("GET", "/state")]


def with_tasks(dependency: Any) -> Application:
    app, log = FastAPI(), []

    @app.post("/later", status_code=202)
    async def later(tasks: BackgroundTasks, tag=Depends(dependency)) -> str:
        def in_thread(text: str) -> None:
            log.append(tag(text).words)

        async def on_loop(text: str) -> None:
            log.append((await tag(text)).words)

        tasks.add_task(in_thread, "a b")
        tasks.add_task(on_loop, "c")
        return "accepted"

    @app.get("/gathered")
    async def gathered(tag=Depends(dependency)) -> list[Tags]:
        return list(await asyncio.gather(*map(tag, "abc")))

    @app.get("/in-thread")
    async def in_thread(tag=Depends(dependency)) -> Tags:
        return await run_in_threadpool(tag, "x y")

    @app.get("/from-thread")
    def from_thread(tag=Depends(dependency)) -> Tags:
        return anyio.from_thread.run(tag, "x y")

    @app.get("/log")
    def read_log() -> list[Any]:
        return log

    paths = ("/gathered", "/in-thread", "/from-thread", "/log")
    return app, [("POST", "/later"), *(("GET", path) for path in paths)]


def with_security(dependency: Any) -> Application:
    app = FastAPI()
    login = OAuth2PasswordBearer(tokenUrl="token", scopes={"read": "to read"})

    def user(scopes: SecurityScopes, token: str = Depends(login), tag=Depends(dependency)) -> Any:
        return [token, scopes.scopes, tag("x y").words]

    @app.get("/me")
    def me(user: Annotated[Any, Security(user, scopes=["read"])]) -> Any:
        return user

    return app, [("GET", "/me", {"headers": {"authorization": "Bearer t"}})]


APPLICATIONS = [
    with_yield,
    with_classes,
    with_uploads,
    with_streams,
    with_handlers,
    with_middleware,
    with_models,
    with_lifespan,
    with_tasks,
    with_security,
]


def clients_of(make: Any, stack: ExitStack) -> Iterator[tuple[TestClient, list[tuple[Any, ...]]]]:
    for dependency in (plain, served(tag)):
        app, calls = make(dependency)
        if dependency is not plain:
            app = asgi(tag, fastapi=app)
        yield stack.enter_context(TestClient(app)), calls


def answer_to(client: TestClient, method: str, path: str, options: Any = None) -> Any:
    response = client.request(method, path, **(options or {}))
    return response.status_code, response.content, sorted(response.headers.items())


@pytest.mark.parametrize("make", APPLICATIONS)
def test_an_application_answers_as_with_the_plain_function(make) -> None:
    with ExitStack() as stack:
        (theirs, calls), (ours, _) = clients_of(make, stack)
        for call in calls:
            expected = answer_to(theirs, *call)
            assert answer_to(ours, *call) == expected, call[:2]
            assert expected[0] < 300 or call[1].endswith("sold"), call[:2]
        assert ours.post("/tag", json={"text": "a b"}).json()["words"] == ["a", "b"]


def with_websocket(dependency: Any) -> Application:
    app = FastAPI()

    def user(socket: WebSocket) -> str:
        return socket.query_params.get("user", "nobody")

    @app.websocket("/live/{room}")
    async def live(
        socket: WebSocket, room: str, user: str = Depends(user), tag=Depends(dependency)
    ) -> None:
        await socket.accept()
        try:
            while True:
                words = (await tag((await socket.receive_json())["text"])).words
                await socket.send_json([*words, room, user])
        except WebSocketDisconnect:
            pass

    return app, []


def test_a_websocket_answers_as_with_the_plain_function() -> None:
    with ExitStack() as stack:
        for client, _ in clients_of(with_websocket, stack):
            with client.websocket_connect("/live/one?user=me") as socket:
                socket.send_json({"text": "a b"})
                assert socket.receive_json() == ["a", "b", "one", "me"]
