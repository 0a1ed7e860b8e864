"""A user's own FastAPI application with pipelines in it; in process, without Ray."""

import re
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.security import OAuth2PasswordBearer
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.routing import BaseRoute

from mlkit import InputError, pipeline, step
from mlkit.define import ImageSource
from mlkit.errors import DeployError
from mlkit.plan import plan
from mlkit.serving import Limits, asgi, served
from mlkit.serving.bundle import pack, shared_state
from mlkit.serving.http.access import new_code
from mlkit.serving.http.userapp import application_of, pack_application


class Tags(BaseModel):
    words: list[str]
    size: int


@step
def split(title: str) -> list[str]:
    if title == "boom":
        raise ValueError("no boom please")
    return title.split()


@step
def size(image: ImageSource) -> int:
    if image == b"bad":
        raise InputError("no picture in it")
    return len(image)


@step
def join(words: list[str], size: int) -> Tags:
    return Tags(words=words, size=size)


@pipeline
def tag(image: ImageSource, title: str = "") -> Tags:
    "Tag one product."
    return join(split(title), size(image))


@pipeline
def titles(title: str) -> list[str]:
    return split(title)


def shop_app():
    shop = FastAPI(title="Shop", version="7")
    guard, seen = threading.Lock(), []

    def tenant(request: Request) -> str:
        with guard:
            return request.headers.get("tenant", "nobody")

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        seen.append("up")
        yield {"since": "today"}
        seen.append("down")

    shop.router.lifespan_context = lifespan

    @shop.middleware("http")
    async def mark(request: Request, call_next):
        response = await call_next(request)
        response.headers["x-shop"] = "yes"
        return response

    @shop.post("/products/{sku}/tags")
    async def product_tags(
        sku: str,
        image: UploadFile,
        later: BackgroundTasks,
        tenant: str = Depends(tenant),
        tag=Depends(served(tag)),
    ) -> Tags:
        later.add_task(seen.append, sku)
        tags = await tag(image=await image.read(), title=f"{sku} {tenant}")
        return helper(tags)

    @shop.get("/titles")
    async def both(q: str, request: Request, titles=Depends(served(titles))) -> list[str]:
        return [*await titles(q), request.state.since]

    def helper(tags: Tags) -> Tags:
        return tags

    @shop.exception_handler(ZeroDivisionError)
    async def zero(request: Request, error: Exception) -> Response:
        return Response("mine", 418)

    @shop.get("/zero")
    def divide() -> int:
        return 1 // 0

    @shop.get("/seen")
    def what() -> list[str]:
        return seen

    return shop


@pytest.fixture
def client():
    with TestClient(asgi(tag, fastapi=shop_app())) as client:
        yield client


def test_a_route_calls_the_pipeline(client) -> None:
    files = {"image": ("a.jpg", b"12345", "image/jpeg")}
    answer = client.post("/products/ab12/tags", files=files, headers={"tenant": "me"})
    assert answer.json() == {"words": ["ab12", "me"], "size": 5}
    assert answer.headers["x-shop"] == "yes"
    assert client.get("/seen").json() == ["up", "ab12"]


def test_several_pipelines_are_in_one_application(client) -> None:
    assert client.get("/titles", params={"q": "a b"}).json() == ["a", "b", "today"]
    assert client.post("/titles", json={"title": "c d"}).json() == ["c", "d"]


def test_the_pipelines_own_routes_are_there_beside_them(client) -> None:
    answer = client.post("/tag?title=x", content=b"123", headers={"content-type": "image/jpeg"})
    assert answer.json() == {"words": ["x"], "size": 3}
    assert client.get("/tag/products/a/tags").status_code == 405
    for path in ("/healthz", "/readyz", "/docs"):
        assert client.get(path).status_code == 200
    document = client.get("/openapi.json").json()
    assert {"/products/{sku}/tags", "/titles", "/tag"} <= document["paths"].keys()
    assert (document["info"]["title"], document["info"]["version"]) == ("Shop", "7")


def test_failures_of_a_pipeline_in_a_route_are_problem_documents(client) -> None:
    bad = client.post("/products/a/tags", files={"image": ("a", b"bad")})
    assert (bad.status_code, bad.json()["step"]) == (422, "size")
    boom = client.get("/titles", params={"q": "boom"})
    assert (boom.status_code, boom.json()["step"]) == (500, "split")
    assert boom.headers["content-type"] == "application/problem+json"
    assert client.get("/titles").json()["errors"][0]["loc"] == ["request", "query", "q"]


def test_the_applications_own_handlers_answer(client) -> None:
    assert (client.get("/zero").status_code, client.get("/zero").text) == (418, "mine")


def test_text_that_a_route_passes_on_is_never_a_path(tmp_path) -> None:
    shop = FastAPI()

    @shop.get("/size")
    async def of(image: str, tag=Depends(served(tag))) -> Tags:
        return await tag(image)

    secret = tmp_path / "secret"
    secret.write_text("secret")
    with TestClient(asgi(tag, fastapi=shop)) as client:
        answer = client.get("/size", params={"image": str(secret)})
        assert (answer.status_code, answer.json()["status"]) == (422, 422)
        assert "an http(s) or data: URL" in answer.text


def test_the_lifespan_ends_with_the_application() -> None:
    shop = shop_app()
    with TestClient(asgi(tag, fastapi=shop)) as client:
        get_seen = next(r.endpoint for r in shop.routes if getattr(r, "path", "") == "/seen")
        assert client.get("/seen").json() == ["up"]
    assert get_seen() == ["up", "down"]


def test_websockets_files_and_oauth_pass_through(tmp_path) -> None:
    shop, login = FastAPI(), OAuth2PasswordBearer(tokenUrl="token")
    file = tmp_path / "a.txt"
    file.write_text("hello")

    @shop.websocket("/live")
    async def live(socket: WebSocket, titles=Depends(served(titles))) -> None:
        await socket.accept()
        await socket.send_json(await titles(await socket.receive_text()))
        await socket.close()

    @shop.get("/file")
    def download() -> FileResponse:
        return FileResponse(file)

    @shop.get("/me")
    def me(token: str = Depends(login)) -> str:
        return token

    with TestClient(asgi(tag, fastapi=shop, token="t0ken")) as client:
        assert client.get("/file").status_code == 401
        client.headers["x-mlkit-token"] = "t0ken"
        with client.websocket_connect("/live") as socket:
            socket.send_text("a b")
            assert socket.receive_json() == ["a", "b"]
        assert client.get("/file").text == "hello"
        assert client.get("/me", headers={"authorization": "Bearer mine"}).json() == "mine"
        assert client.get("/me").status_code == 401


def test_overrides_of_dependencies_count() -> None:
    shop = FastAPI()

    def who() -> str:
        return "real"

    @shop.get("/who")
    def get_who(name: str = Depends(who)) -> str:
        return name

    with TestClient(asgi(tag, fastapi=shop)) as client:
        assert client.get("/who").json() == "real"
        shop.dependency_overrides[who] = lambda: "fake"
        assert client.get("/who").json() == "fake"
    assert [r.path for r in shop.routes if r.path == "/tag"] == []


def test_routers_are_included_with_what_they_ask_for() -> None:
    shop, router = FastAPI(), APIRouter(prefix="/names")

    @router.get("/split")
    async def names(q: str, titles=Depends(served(titles))) -> list[str]:
        return await titles(q)

    shop.include_router(router, prefix="/v1")
    with TestClient(asgi(tag, fastapi=shop)) as client:
        assert client.get("/v1/names/split", params={"q": "a b"}).json() == ["a", "b"]


def test_a_function_may_make_the_application() -> None:
    with TestClient(asgi(tag, fastapi=shop_app)) as client:
        assert client.get("/seen").json() == ["up"]


def catch_all(shop: FastAPI) -> None:
    @shop.get("/{path:path}")
    def mine(path: str) -> str:
        return "mine"


def mounts(shop: FastAPI) -> None:
    async def mine(scope, receive, send) -> None:
        await Response('"mine"')(scope, receive, send)

    for path in ("/swagger", "/healthz"):
        shop.mount(path, mine)


def included(shop: FastAPI) -> None:
    router = APIRouter()
    catch_all(router)
    shop.include_router(router)


@pytest.mark.parametrize("add_routes", [catch_all, mounts, included])
def test_a_route_of_ones_own_needs_the_token_whatever_its_path(add_routes) -> None:
    shop = FastAPI()
    add_routes(shop)
    with TestClient(asgi(tag, fastapi=shop, token="t0ken")) as client:
        for path in ("/swagger/x", "/swagger/swagger-ui.css", "/healthz/", "/tag/healthz/x"):
            assert client.get(path, follow_redirects=False).status_code == 401
        answer = client.get("/swagger/x", headers={"authorization": "Bearer t0ken"})
        assert answer.json() == "mine"


def test_neither_code_nor_cookie_opens_a_route_of_ones_own() -> None:
    shop = FastAPI()
    with TestClient(asgi(tag, fastapi=shop, token="t0ken"), follow_redirects=False) as client:
        client.get(f"/docs?code={new_code('t0ken', 'tag')}")
        cookies = dict(client.cookies)
    catch_all(shop)
    with TestClient(asgi(tag, fastapi=shop, token="t0ken"), cookies=cookies) as client:
        for query in ("", f"?code={new_code('t0ken', 'tag')}"):
            assert client.get(f"/docs{query}", follow_redirects=False).status_code == 401


def test_a_route_at_the_path_of_mlkits_own_needs_the_token() -> None:
    shop = FastAPI()

    @shop.get("/healthz")
    def mine() -> str:
        return "mine"

    with TestClient(asgi(tag, fastapi=shop, token="t0ken")) as client:
        assert client.get("/healthz").status_code == 401
        assert client.get("/readyz").status_code == 200


def test_a_middleware_of_ones_own_does_not_answer_callers_without_the_token() -> None:
    shop = FastAPI()

    @shop.middleware("http")
    async def answer(request: Request, call_next) -> Response:
        return Response("mine")

    with TestClient(asgi(tag, fastapi=shop, token="t0ken")) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/healthz", headers={"x-mlkit-token": "t0ken"}).text == "mine"


def _with_catch_all(shop: FastAPI) -> None:
    shop.post("/{name}")(lambda name: "mine")


def _with_included_catch_all(shop: FastAPI) -> None:
    router = APIRouter()
    _with_catch_all(router)
    shop.include_router(router)


def _with_pages(shop: FastAPI) -> None:
    shop.mount("/", StaticFiles(directory=Path(__file__).parent))


def _with_mounted_host(shop: FastAPI) -> None:
    shop.host("testserver", FastAPI())


@pytest.mark.parametrize(
    "add_routes", [_with_catch_all, _with_included_catch_all, _with_pages, _with_mounted_host]
)
def test_a_pipeline_is_served_whatever_a_route_of_ones_own_matches(add_routes) -> None:
    shop = FastAPI()

    @shop.get("/titles")
    def mine() -> str:
        return "mine"

    add_routes(shop)
    with TestClient(asgi(titles, fastapi=shop)) as client:
        assert client.post("/titles", json={"title": "a b"}).json() == ["a", "b"]
        assert client.get("/titles").json() == "mine"


def test_pages_that_are_mounted_at_the_root_hide_no_route_of_mlkits() -> None:
    shop = FastAPI()
    _with_pages(shop)
    with TestClient(asgi(titles, fastapi=shop, token="t0ken")) as client:
        paths = ("/docs", "/openapi.json", "/metrics", f"/{Path(__file__).name}")
        assert [client.get(path).status_code for path in paths] == [401] * 4
        client.headers["authorization"] = "Bearer t0ken"
        assert [client.get(path).status_code for path in paths] == [200] * 4
        assert client.get("/healthz").json() == {"status": "ok"}


def _own(router: Any) -> Any:
    router.post("/titles")(lambda: "mine")
    return router


def _own_in_router() -> FastAPI:
    shop = FastAPI()
    shop.include_router(_own(APIRouter()))
    return shop


def _own_in_prefixed_router() -> FastAPI:
    shop, router = FastAPI(), APIRouter(prefix="/titles")
    router.api_route("", methods=["GET", "POST"])(lambda: "mine")
    shop.include_router(router)
    return shop


@pytest.mark.parametrize("make", [lambda: _own(FastAPI()), _own_in_router, _own_in_prefixed_router])
def test_a_route_with_the_path_of_a_pipeline_is_refused(make) -> None:
    with pytest.raises(DeployError, match="a route POST /titles, where the pipeline 'titles'"):
        asgi(titles, fastapi=make())
    with (
        pytest.raises(DeployError, match="a route POST /titles"),
        TestClient(asgi(titles, fastapi=make)),  # a factory is called in the replica
    ):
        pass


# ---- on the way to another process ---------------------------------------------------------------


def test_an_application_travels_with_locks_and_helpers() -> None:
    data, _, pipelines = pack_application(shop_app())
    assert set(pipelines) == {"tag", "titles"}
    again = application_of(data)
    with TestClient(again) as client:
        assert client.get("/seen").json() == ["up"]


def test_its_digest_changes_with_its_code() -> None:
    def app(text: str) -> FastAPI:
        names = {"__name__": "__main__", "FastAPI": FastAPI}
        exec(
            "app = FastAPI()\n@app.get('/a')\ndef a() -> str:\n    return helper()\n"
            f"def helper() -> str:\n    return {text!r}",
            names,
        )
        return names["app"]

    assert pack_application(app("x"))[1] == pack_application(app("x"))[1]
    assert pack_application(app("x"))[1] != pack_application(app("y"))[1]


def test_what_cannot_travel_is_named_with_the_way_out() -> None:
    shop, connection = FastAPI(), sqlite3.connect(":memory:")

    def rows() -> list[int]:
        return connection.execute("select 1").fetchall()

    @shop.get("/rows")
    def get_rows() -> list[int]:
        return rows()

    with pytest.raises(DeployError, match="'connection'") as caught:
        pack_application(shop)
    assert "the route GET /rows" in str(caught.value)
    assert "lifespan" in caught.value.fix


REQUEST_ID: ContextVar[str] = ContextVar("REQUEST_ID")
CONNECTION = sqlite3.connect(":memory:")


def _read() -> tuple[str, Any]:
    return REQUEST_ID.get(), CONNECTION


def _with_route(endpoint: Any) -> FastAPI:
    shop = FastAPI()
    shop.get("/read")(endpoint)
    return shop


def _of_context() -> str:
    return REQUEST_ID.get()


def _of_connection() -> str:
    return str(CONNECTION)


def _of_helper() -> str:
    return str(_read())


def _make_context() -> FastAPI:
    return _with_route(lambda: REQUEST_ID.get())


def _make_connection() -> FastAPI:
    return _with_route(lambda: CONNECTION)


@pytest.mark.parametrize(
    ("application", "what", "fix"),
    [
        (
            _with_route(_of_context),
            "it uses 'REQUEST_ID'",
            r"import it in the function.*REQUEST_ID",
        ),
        (_with_route(_of_connection), "it uses 'CONNECTION'", r"lifespan.*fastapi=make_app"),
        (_with_route(_of_helper), "_read uses '", "create it in|import it in"),
        (_make_context, "it uses 'REQUEST_ID'", r"import it in the function.*REQUEST_ID"),
        (_make_connection, "it uses 'CONNECTION'", r"create it in _make_connection\(\)$"),
    ],
)
def test_a_variable_that_cannot_travel_is_named_with_who_uses_it(
    application: Any, what: str, fix: str
) -> None:
    with pytest.raises(DeployError, match=what) as caught:
        pack_application(application)
    assert re.search(fix, str(caught.value.fix))


def test_a_pipeline_that_is_called_directly_is_told_apart() -> None:
    shop = FastAPI()

    @shop.get("/direct")
    def direct(q: str) -> list[str]:
        return titles(q)

    with pytest.raises(DeployError, match="called directly") as caught:
        pack_application(shop)
    assert "Depends(served(titles))" in str(caught.value)


def test_a_pipeline_that_is_called_in_the_lifespan_is_to_be_called_in_a_route() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        titles("warm up")
        yield

    with pytest.raises(DeployError, match="called directly") as caught:
        pack_application(FastAPI(lifespan=lifespan))
    assert caught.value.where == "fastapi=, the lifespan"
    assert "call it in a route, or in a dependency of one" in str(caught.value.fix)


def test_an_error_of_a_route_is_not_one_of_the_pipeline() -> None:
    shop = FastAPI()

    @shop.get("/broken")
    def broken() -> int:
        raise ValueError("private")

    client = TestClient(asgi(tag, fastapi=shop), raise_server_exceptions=False)
    assert client.get("/broken").json()["detail"] == "the request failed: ValueError"


def test_state_that_a_step_and_a_route_use_is_not_the_same() -> None:
    prices, visits = {"shoe": 1}, {"shoe": 1}

    @step
    def price(title: str) -> int:
        return prices[title]

    @pipeline
    def priced(title: str) -> int:
        return price(title)

    shop = FastAPI()

    @shop.put("/prices/{title}")
    def change(title: str, to: int) -> None:
        prices[title] = to
        visits[title] += 1

    of_prices, of_visits = shared_state(priced.graph, shop)
    assert "changes 'prices'" in of_prices
    assert "steps have another one than routes" in of_prices
    assert "changes 'visits'" in of_visits
    assert "than routes" not in of_visits


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(DeployError, match="FastAPI application"):
        asgi(tag, fastapi="shop")


class Mounted:
    """An ASGI application that is no Starlette."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def __call__(self, scope, receive, send) -> None:
        raise NotImplementedError


class Unknown(BaseRoute):
    """A route that does not say what answers, as another version of FastAPI might have."""

    path = "/x"


def test_what_is_mounted_counts_as_changed_when_it_changes() -> None:
    def digest(text):
        shop = FastAPI()
        shop.mount("/files", Mounted(text))
        return pack_application(shop)[1]

    assert digest("a") == digest("a") != digest("b")


def _titled(text: str) -> FastAPI:
    return FastAPI(title=text)


def _with_status(text: str) -> FastAPI:
    shop = FastAPI()
    shop.get("/x", status_code=200 + len(text))(_hello)
    return shop


def _with_response_model(text: str) -> FastAPI:
    shop = FastAPI()
    shop.get("/x", response_model=list[str] if text == "a" else list[int])(_hello)
    return shop


def _with_origins(text: str) -> FastAPI:
    shop = FastAPI()
    shop.add_middleware(CORSMiddleware, allow_origins=[text])
    return shop


def _with_state(text: str) -> FastAPI:
    shop = FastAPI()
    shop.state.names = {"first": text}
    return shop


def _with_router(text: str) -> FastAPI:
    shop, router, inner = FastAPI(), APIRouter(), APIRouter()
    inner.get("/x")(_hello)
    router.include_router(inner, tags=[text])
    shop.include_router(router)
    return shop


def _with_override(text: str) -> FastAPI:
    shop = FastAPI()
    shop.dependency_overrides[_hello] = lambda: text
    return shop


def _with_webhook(text: str) -> FastAPI:
    shop = FastAPI()
    shop.webhooks.post(text)(_hello)
    return shop


def _mounting(sub: Any, text: str) -> FastAPI:
    shop = FastAPI()
    shop.mount("/sub", sub)
    return shop


def _with_handler_of_mounted(text: str) -> FastAPI:
    sub = FastAPI()
    sub.add_exception_handler(KeyError, lambda request, error: Response(text))
    return _mounting(sub, text)


def _with_middleware_of_mounted(text: str) -> FastAPI:
    return _mounting(_titled(text), text)


def _with_middleware_around_mounted(text: str) -> FastAPI:
    return _mounting(GZipMiddleware(FastAPI(), minimum_size=len(text)), text)


def _within_middleware(text: str) -> FastAPI:
    return _mounting(GZipMiddleware(_titled(text)), text)


def _within_router(text: str) -> FastAPI:
    shop, router = FastAPI(), APIRouter(prefix="/v1")
    router.mount("/sub", _titled(text))
    shop.include_router(router)
    return shop


def _hello() -> str:
    return "hello"


@pytest.mark.parametrize(
    "configured",
    [
        _titled,
        _with_status,
        _with_response_model,
        _with_origins,
        _with_state,
        _with_router,
        _with_override,
        _with_webhook,
        _with_handler_of_mounted,
        _with_middleware_of_mounted,
        _with_middleware_around_mounted,
        _within_middleware,
        _within_router,
    ],
)
def test_its_digest_changes_with_what_it_is_configured_with(configured) -> None:
    def digest(shop: FastAPI) -> str:
        return pack_application(shop)[1]

    shop = configured("a")
    assert digest(shop) == digest(configured("a")) != digest(configured("bb"))
    before = digest(shop)
    for app in (asgi(tag, fastapi=shop), shop):
        with TestClient(app, raise_server_exceptions=False) as client:
            assert client.get("/openapi.json").status_code == 200
            client.get("/x")
            client.get("/sub/x")
    assert digest(shop) == before  # whatever it has been used for


def _in_route(fn: Any) -> FastAPI:
    return _with_route(fn)


def _in_router(fn: Any) -> FastAPI:
    shop, router = FastAPI(), APIRouter()
    router.get("/x")(fn)
    shop.include_router(router)
    return shop


def _in_mounted(fn: Any) -> FastAPI:
    sub = FastAPI()
    sub.get("/x")(fn)
    return _mounting(sub, "")


def _in_dependency(fn: Any) -> FastAPI:
    shop = FastAPI()

    @shop.get("/x")
    def route(value: Any = Depends(fn)) -> str:
        return "x"

    return shop


def _in_handler(fn: Any) -> FastAPI:
    return FastAPI(exception_handlers={KeyError: lambda request, error: fn()})


def _in_lifespan(fn: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        fn()
        yield

    return FastAPI(lifespan=lifespan)


def _in_factory(fn: Any) -> Any:
    def make() -> FastAPI:
        return _with_route(fn)

    return make


PLACES = [_in_route, _in_router, _in_mounted, _in_dependency, _in_handler, _in_lifespan]


@pytest.mark.parametrize("place", [*PLACES, _in_factory])
def test_a_module_that_any_of_its_functions_imports_late_is_sent(
    place, tmp_path, monkeypatch
) -> None:
    def late() -> str:
        import late_in_an_application

        return late_in_an_application.NAME

    def digest(text: str) -> str:
        (tmp_path / "late_in_an_application.py").write_text(f"NAME = {text!r}")
        front, *_ = pack(plan(tag), place(late))
        return front.modules

    monkeypatch.syspath_prepend(tmp_path)
    assert digest("a") == digest("a") != digest("b")


SEEN: list[str] = []


@pytest.mark.parametrize("place", [*PLACES, _in_factory])
def test_state_that_any_of_its_functions_changes_is_named(place) -> None:
    def note() -> str:
        SEEN.append("x")
        return "x"

    warned = [text for text in shared_state(plan(tag).graph, place(note)) if "'SEEN'" in text]
    # What the startup changes, it changes in each replica.
    assert len(warned) == (place is not _in_lifespan)


def test_a_route_whose_code_cannot_be_seen_is_never_taken_for_unchanged() -> None:
    shop = FastAPI()
    shop.router.routes.append(Unknown())
    assert pack_application(shop)[1] != pack_application(shop)[1]


def streamed():
    """Yields 2,000 bytes in parts: without a Content-Length."""
    for _ in range(20):
        yield b"x" * 100


def declared():
    return b"x" * 2000


@pytest.mark.parametrize("body", [declared, streamed])
@pytest.mark.parametrize(("own", "limit"), [(None, 1000), (500, 500), (5000, 5000)])
def test_bodies_of_a_users_routes_are_limited_like_those_of_pipelines(body, own, limit) -> None:
    mine = FastAPI(max_body_size=own)

    @mine.post("/count")
    async def count(request: Request) -> int:
        return len(await request.body())

    with TestClient(asgi(tag, fastapi=mine, limits=Limits(max_body_bytes=1000))) as client:
        response = client.post("/count", content=body())
    assert response.status_code == (200 if limit > 2000 else 413)


def test_a_pipelines_body_over_the_applications_limit_is_too_large() -> None:
    with TestClient(asgi(tag, fastapi=FastAPI(max_body_size=500))) as client:
        response = client.post("/tag", content=streamed(), headers={"content-type": "image/png"})
    assert (response.status_code, response.json()["status"]) == (413, 413)
