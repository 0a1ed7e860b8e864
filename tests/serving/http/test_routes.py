"""How routes of a user's application call pipelines."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Form,
    Header,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.routing import Mount
from starlette.websockets import WebSocketDisconnect

from mlkit import ImageSource, InputError, pipeline, step
from mlkit.errors import DeployError
from mlkit.serving import asgi, served


class Words(BaseModel):
    words: list[str]
    comment: str | None = None


class Short(BaseModel):
    words: list[str]


@step
def split(text: str) -> Words:
    if text == "bad":
        raise InputError("no words in it")
    if text == "boom":
        raise ValueError("no boom please")
    if text == "missing":
        raise KeyError(text)
    return Words(words=text.split())


@pipeline
def tag(text: str) -> Words:
    return split(text)


@pytest.fixture
def client():
    """Returns a function: application to a client of it."""

    def make(shop: FastAPI, pipe=tag, **options) -> TestClient:
        app = asgi(pipe, fastapi=shop, **options)
        return TestClient(app, raise_server_exceptions=False)

    return make


def plain(q: str, tag=Depends(served(tag))) -> Words:
    return tag(q)


def untyped(q: str, tag=Depends(served(tag))):
    return {"words": tag(text=q).words, "comment": None}


def in_own_loop(q: str, tag=Depends(served(tag))) -> Words:
    async def call() -> Words:
        return await tag(q)

    return asyncio.run(call())


def in_own_threads(q: str, tag=Depends(served(tag))) -> Words:
    with ThreadPoolExecutor(2) as threads:
        *_, words = threads.map(tag, [q, q])
    return words


def streamed(q: str, tag=Depends(served(tag))) -> StreamingResponse:
    return StreamingResponse(tag(each).model_dump_json() for each in [q])


async def awaited(q: str, tag=Depends(served(tag))) -> Words:
    return await tag(q)


async def gathered(q: str, tag=Depends(served(tag))) -> Words:
    return (await asyncio.gather(tag(q), tag(q)))[1]


async def grouped(q: str, tag=Depends(served(tag))) -> Words:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tag(q))
    return task.result()


async def in_time(q: str, tag=Depends(served(tag))) -> Words:
    return await asyncio.wait_for(tag(q), 10)


def words_of(q: str, tag=Depends(served(tag))) -> Words:
    return tag(q)


async def of_dependency(words: Words = Depends(words_of)) -> Words:
    return words


ROUTES = [plain, untyped, in_own_loop, in_own_threads, awaited, gathered, grouped, in_time]


@pytest.mark.parametrize("route", [*ROUTES, streamed, of_dependency])
def test_a_route_gets_the_result(client, route) -> None:
    shop = FastAPI()
    shop.get("/words")(route)
    answer = client(shop).get("/words", params={"q": "a b"})
    assert answer.json() == {"words": ["a", "b"], "comment": None}


@pytest.mark.parametrize("route", [plain, untyped, in_own_loop, in_own_threads, awaited, in_time])
def test_an_error_of_a_step_is_raised_in_the_route(client, route) -> None:
    shop = FastAPI()
    shop.get("/words")(route)
    answer = client(shop).get("/words", params={"q": "bad"})
    assert (answer.status_code, answer.json()["step"]) == (422, "split")


def test_plain_routes_run_side_by_side(client) -> None:
    shop = FastAPI()
    shop.get("/words")(plain)
    with client(shop) as one, ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda i: one.get(f"/words?q={i}").json(), range(60)))
    assert [answer["words"] for answer in answers] == [[str(i)] for i in range(60)]


async def typed_call(q: str, tag=Depends(served(tag))) -> Words:
    return tag(q)


async def listed_call(q: str, tag=Depends(served(tag))) -> list[Words]:
    return [tag(q)]


async def untyped_call(q: str, tag=Depends(served(tag))):
    return {"words": tag(q)}


async def attribute_of_call(q: str, tag=Depends(served(tag))) -> list[str]:
    return tag(q).words


async def truth_of_call(q: str, tag=Depends(served(tag))) -> bool:
    return bool(tag(q))


async def loop_over_call(q: str, tag=Depends(served(tag))) -> list[str]:
    return [word for word in tag(q)]  # noqa: C416


async def call_in_response(q: str, tag=Depends(served(tag))) -> Response:
    return Response(tag(q))


@pytest.mark.parametrize(
    "route",
    [
        typed_call,
        listed_call,
        untyped_call,
        attribute_of_call,
        truth_of_call,
        loop_over_call,
        call_in_response,
    ],
)
def test_a_forgotten_await_is_an_error_that_says_so(client, route) -> None:
    shop = FastAPI()
    shop.get("/words")(route)
    answer = client(shop).get("/words", params={"q": "a b"})
    assert answer.status_code == 500
    assert "without awaiting it" in answer.json()["detail"]
    assert "`await tag(...)`" in answer.json()["detail"]
    assert answer.json()["failure_id"]


def test_another_error_of_a_route_is_not_taken_for_a_forgotten_await(client) -> None:
    shop = FastAPI()

    @shop.get("/words")
    async def words(tag=Depends(served(tag))) -> int:
        await tag("a")
        return 1 // 0

    assert "ZeroDivisionError" in client(shop).get("/words").json()["detail"]


def test_a_task_of_a_route_that_fails_is_not_taken_for_a_forgotten_await(client) -> None:
    shop, tasks = FastAPI(), []

    @shop.get("/words")
    async def words(tag=Depends(served(tag))) -> int:
        tasks.append(asyncio.create_task(tag("a b")))
        return 1 // 0

    @shop.get("/result")
    async def result() -> Words:
        return await tasks[0]

    with client(shop) as one:
        assert "ZeroDivisionError" in one.get("/words").json()["detail"]
        assert one.get("/result").json()["words"] == ["a", "b"]


def test_a_long_connection_keeps_no_calls(client) -> None:
    shop, kept = FastAPI(), []

    @shop.websocket("/live")
    async def live(socket: WebSocket, tag=Depends(served(tag))) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_json((await tag(text)).words)
        kept.append(len(tag.calls))

    with client(shop) as one, one.websocket_connect("/live") as socket:
        for _ in range(3):
            socket.send_text("a")
            assert socket.receive_json() == ["a"]
        socket.close()
    assert kept == [0]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_background_tasks_call_the_pipeline_after_the_answer(client, kind) -> None:
    shop, seen = FastAPI(), []

    def note(tag, text: str) -> None:
        seen.append(tag(text).words)

    async def note_on_the_loop(tag, text: str) -> None:
        seen.append((await tag(text)).words)

    @shop.post("/later", status_code=202)
    async def later(tasks: BackgroundTasks, tag=Depends(served(tag))) -> int:
        tasks.add_task(note if kind == "plain" else note_on_the_loop, tag, "a b")
        tasks.add_task(tag, "c")
        return len(seen)

    answer = client(shop).post("/later")
    assert (answer.status_code, answer.json()) == (202, 0)
    assert seen == [["a", "b"]]


def test_an_error_of_a_background_task_does_not_change_the_answer(client) -> None:
    shop = FastAPI()

    @shop.post("/later")
    async def later(tasks: BackgroundTasks, tag=Depends(served(tag))) -> str:
        tasks.add_task(tag, "boom")
        return "accepted"

    answer = client(shop).post("/later")
    assert (answer.status_code, answer.json()) == (200, "accepted")


def test_options_of_a_route_apply_to_a_result(client) -> None:
    shop = FastAPI()
    shop.get("/short", response_model=Short, status_code=203)(awaited)
    shop.get("/lean", response_model_exclude_none=True)(awaited)
    one = client(shop)
    answer = one.get("/short?q=a")
    assert (answer.status_code, answer.json()) == (203, {"words": ["a"]})
    assert one.get("/lean?q=a").json() == {"words": ["a"]}


def test_dependencies_of_the_application_apply_to_the_pipelines_own_route(client) -> None:
    def check(x_key: str = Header(""), q: str = "") -> None:
        if (x_key or q) != "k":
            raise InputError("no key")

    shop = FastAPI(dependencies=[Depends(check)])
    one = client(shop)
    assert one.post("/tag", json={"text": "a"}).status_code == 422
    assert one.post("/tag", json={"text": "a"}, headers={"x-key": "k"}).json()["words"] == ["a"]
    assert one.post("/tag?q=k", json={"text": "a"}).json()["words"] == ["a"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_headers_cookies_and_the_status_that_dependencies_set_are_sent(client, accept) -> None:
    def session(response: Response) -> None:
        response.headers["X-Remaining"] = "9"
        response.headers["Content-Type"] = "text/plain"
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        response.status_code = 203

    shop = FastAPI(dependencies=[Depends(session)])
    shop.post("/own")(lambda: Words(words=["a"]))
    one = client(shop)
    accepted = {"accept": accept}
    own, answer = one.post("/own"), one.post("/tag", json={"text": "a"}, headers=accepted)
    assert answer.status_code == own.status_code == 203
    assert answer.headers.get_list("content-type") == (
        ["application/json"]
        if accept == "application/json"
        else ["text/event-stream; charset=utf-8"]
    )
    for name in ("x-remaining", "set-cookie"):
        assert answer.headers.get_list(name) == own.headers.get_list(name) != []
    failed = one.post("/tag", json={"text": "boom"})  # as of FastAPI's own errors
    assert failed.status_code == 500
    assert "x-remaining" not in failed.headers


def test_a_status_without_a_body_is_not_that_of_a_result(client) -> None:
    def empty(response: Response) -> None:
        response.status_code = 204

    answer = client(FastAPI(dependencies=[Depends(empty)])).post("/tag", json={"text": "a"})
    assert (answer.status_code, answer.json()["words"]) == (200, ["a"])


@step
def measure(image: ImageSource, title: str) -> str:
    return f"{title} {len(image)}"


@pipeline
def sized(image: ImageSource, title: str = "") -> str:
    return measure(image, title)


async def read_form(image: UploadFile, key: str = Form()) -> None:
    assert len(await image.read()) == 3


async def read_body(request: Request) -> None:
    assert b"123" in await request.body()


@pytest.mark.parametrize("dependency", [read_form, read_body])
def test_a_dependency_of_the_application_may_read_the_body_as_well(client, dependency) -> None:
    one = client(FastAPI(dependencies=[Depends(dependency)]), sized)
    answer = one.post("/sized", files={"image": b"123"}, data={"title": "a", "key": "k"})
    assert answer.json() == "a 3"


def test_a_form_of_a_route_is_passed_on(client) -> None:
    shop = FastAPI()

    @shop.post("/words")
    def words(text: str = Form(), tag=Depends(served(tag))) -> Words:
        return tag(text)

    assert client(shop).post("/words", data={"text": "a b"}).json()["words"] == ["a", "b"]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_mounted_application_calls_the_pipeline(client, depth) -> None:
    shop, sub = FastAPI(), FastAPI()
    sub.get("/words")(plain)
    for _ in range(depth - 1):
        middle = FastAPI()
        middle.mount("/sub", sub)
        sub = middle
    shop.mount("/sub", sub)
    one, path = client(shop), "/sub" * depth + "/words"
    assert one.get(path, params={"q": "a b"}).json()["words"] == ["a", "b"]
    bad = one.get(path, params={"q": "bad"})
    assert (bad.status_code, bad.json()["step"]) == (422, "split")
    boom = one.get(path, params={"q": "boom"})
    assert (boom.status_code, boom.headers["content-type"]) == (500, "application/problem+json")
    # The application itself is as it was.
    assert all(route.path != "/tag" for route in sub.routes)


def in_router(sub: FastAPI) -> FastAPI:
    shop, router, inner = FastAPI(), APIRouter(), APIRouter()
    inner.mount("/sub", sub)
    router.include_router(inner)
    shop.include_router(router)
    return shop


def in_mounted_router(sub: FastAPI) -> FastAPI:
    shop, router = FastAPI(), APIRouter()
    router.mount("/sub", sub)
    shop.mount("", router)
    return shop


def in_list_of_routes(sub: FastAPI) -> FastAPI:
    shop = FastAPI()
    shop.router.routes.append(Mount("", routes=[Mount("/sub", sub)]))
    return shop


def in_middleware(sub: FastAPI) -> FastAPI:
    shop = FastAPI()
    shop.mount("/sub", GZipMiddleware(sub))
    return shop


def in_host(sub: FastAPI) -> FastAPI:
    shop, host = FastAPI(), FastAPI()
    host.mount("/sub", sub)
    shop.host("testserver", host)
    return shop


PLACES = [in_router, in_mounted_router, in_list_of_routes, in_middleware, in_host]


@pytest.mark.parametrize("mount", PLACES)
@pytest.mark.parametrize("pipe", [tag, sized])
def test_an_application_calls_the_pipeline_wherever_it_is_mounted(mount, pipe) -> None:
    sub = FastAPI()
    sub.get("/words")(plain)

    @sub.exception_handler(LookupError)
    def failed(request: Request, error: LookupError) -> Response:
        return Response("handled", 418)

    @sub.websocket("/live")
    async def live(socket: WebSocket, tag=Depends(served(tag))) -> None:
        await socket.accept()
        await socket.send_json((await tag(await socket.receive_text())).words)

    with TestClient(asgi(pipe, fastapi=mount(sub)), raise_server_exceptions=False) as one:
        assert one.get("/sub/words", params={"q": "a b"}).json()["words"] == ["a", "b"]
        bad = one.get("/sub/words", params={"q": "bad"})
        assert (bad.status_code, bad.json()["step"]) == (422, "split")
        boom = one.get("/sub/words", params={"q": "boom"})
        assert (boom.status_code, boom.headers["content-type"]) == (500, "application/problem+json")
        missing = one.get("/sub/words", params={"q": "missing"})
        assert (missing.status_code, missing.text) == (418, "handled")
        assert one.get("/sub/nothing").json() == {"detail": "Not Found"}  # as FastAPI has it
        with one.websocket_connect("/sub/live") as socket:
            socket.send_text("bad")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
        assert closed.value.code == 1007


@pytest.mark.parametrize("place", ["route", "mounted", "router", "dependency", "websocket"])
def test_a_further_pipeline_is_served_wherever_it_is_depended_on(client, place) -> None:
    def words(q: str, further: Annotated[Any, Depends(served(sized))]) -> str:
        return further(image=q.encode(), title="a")

    def passed_on(words: Annotated[str, Depends(words)]) -> str:
        return words

    async def live(socket: WebSocket, sized: Annotated[Any, Depends(served(sized))]) -> None:
        await socket.accept()
        await socket.send_json(await sized(image=b"123", title="a"))

    shop, path = FastAPI(), "/words"
    if place == "mounted":
        sub, path = FastAPI(), "/sub/words"
        sub.get("/words")(words)
        shop.mount("/sub", sub)
    elif place == "router":
        router = APIRouter()
        router.get("/words")(words)
        shop.include_router(router)
    elif place == "websocket":
        shop.websocket("/live")(live)
        with client(shop).websocket_connect("/live") as socket:
            assert socket.receive_json() == "a 3"
        return
    else:
        shop.get("/words")(words if place == "route" else passed_on)
    assert client(shop).get(path, params={"q": "123"}).json() == "a 3"


# ---- two versions beside each other --------------------------------------------------------------


@step
def split_by_comma(text: str) -> Words:
    return Words(words=text.split(","))


@pipeline
def tag_v2(text: str) -> Words:
    return tag.replace(split=split_by_comma)(text)


def test_two_versions_are_served_beside_each_other(client) -> None:
    shop = FastAPI()

    @shop.get("/v1/tag")
    def first(q: str, tag=Depends(served(tag))) -> Words:
        return tag(q)

    @shop.get("/v2/tag")
    def second(q: str, tag=Depends(served(tag_v2))) -> Words:
        return tag(q)

    one = client(shop, tag_v2)
    assert one.get("/v1/tag", params={"q": "a,b c"}).json()["words"] == ["a,b", "c"]
    assert one.get("/v2/tag", params={"q": "a,b c"}).json()["words"] == ["a", "b c"]
    assert one.post("/tag", json={"text": "a,b"}).json()["words"] == ["a,b"]
    assert one.post("/tag_v2", json={"text": "a,b"}).json()["words"] == ["a", "b"]


def test_two_pipelines_with_one_name_are_refused_with_the_way_out() -> None:
    other = tag.replace(split=split_by_comma)
    shop = FastAPI()
    shop.get("/words")(plain)

    @shop.get("/other")
    def words(q: str, tag=Depends(served(other))) -> Words:
        return tag(q)

    with pytest.raises(DeployError, match="two of its pipelines are named 'tag'") as caught:
        asgi(tag_v2, fastapi=shop)
    assert "tag_v2" in caught.value.fix


def test_the_pipeline_that_is_served_differs_from_one_of_a_route_with_its_name() -> None:
    shop = FastAPI()
    shop.get("/words")(plain)
    with pytest.raises(DeployError, match="two of its pipelines are named 'tag'"):
        asgi(tag.replace(split=split_by_comma), fastapi=shop)


def test_a_pipeline_that_was_defined_again_replaces_the_former(client, cell) -> None:
    source = "@step\ndef size(text: str) -> int:\n    return len(text) + {}\n"
    source += "@pipeline\ndef sized(text: str) -> int:\n    return size(text)\n"
    first = cell(source.format(0))["sized"]
    shop = FastAPI()

    @shop.get("/size")
    def size(q: str, sized=Depends(served(first))) -> int:
        return sized(q)

    again = cell(source.format(10))["sized"]
    assert client(shop, again).get("/size?q=abc").json() == 13


def test_routes_see_the_request_and_the_application(client) -> None:
    shop = FastAPI()
    shop.state.names = ["x"]

    @shop.get("/names")
    async def names(request: Request, tag=Depends(served(tag))) -> list[str]:
        return [*(await tag("a")).words, *request.app.state.names, request.url.path]

    assert client(shop).get("/names").json() == ["a", "x", "/names"]


# ---- objects of a route ----------------------------------------------------------------------


@dataclass
class Basket:
    names: list[str]


def clear(value: Any) -> None:
    value.clear()


def clear_names(value: Any) -> None:
    (value.words if isinstance(value, Words) else value.names).clear()


def clear_first(value: Any) -> None:
    value[0][:] = type(value[0])([0, 0]) if isinstance(value[0], list) else 0


def add_column(value: Any) -> None:
    value["added"] = 0


MUTABLE: list[tuple[Any, Any, Any]] = [
    (list[int], lambda: [1, 2], clear),
    (dict[str, int], lambda: {"a": 1}, clear),
    (set[int], lambda: {1}, clear),
    (list[list[int]], lambda: [[1, 2]], clear_first),
    (Words, lambda: Words(words=["a"]), clear_names),
    (Basket, lambda: Basket(["a"]), clear_names),
    (dict[str, Words], lambda: {"a": Words(words=["a"])}, lambda value: value["a"].words.clear()),
    (np.ndarray, lambda: np.ones((1, 2)), clear_first),
    (list[np.ndarray], lambda: [np.ones(2)], clear_first),
    (pd.DataFrame, lambda: pd.DataFrame({"a": [1]}), add_column),
]


def changing(type_: Any, change: Any) -> Any:
    @step
    def changed(value: type_) -> int:
        change(value)
        return 0

    @pipeline
    def changes(value: type_) -> int:
        return changed(value)

    return changes


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize(
    ("type_", "make", "change"), MUTABLE, ids=lambda part: getattr(part, "__name__", "")
)
def test_a_step_that_changes_its_argument_does_not_change_the_routes_object(
    type_, make, change, kind
) -> None:
    shop, values, pipe = FastAPI(), [make()], changing(type_, change)

    @shop.get("/async")
    async def awaits(changes=Depends(served(pipe))) -> str:
        await changes(values[0])
        return repr(values[0])

    @shop.get("/plain")
    def calls(changes=Depends(served(pipe))) -> str:
        changes(value=values[0])
        return repr(values[0])

    with TestClient(asgi(pipe, fastapi=shop)) as one:
        assert [one.get(f"/{kind}").json() for _ in range(2)] == [repr(make())] * 2
    value = make()
    pipe(value)  # as in the notebook
    assert repr(value) == repr(make())


@step
def drain(names: list[str]) -> Iterator[str]:
    while names:
        yield names.pop()


@pipeline
def drained(names: list[str] = ["a", "b"]) -> Iterator[str]:  # noqa: B006
    return drain(names)


def test_a_stream_that_changes_its_arguments_does_not_change_the_next_one() -> None:
    shop, mine = FastAPI(), ["c"]

    @shop.get("/drained")
    async def route(own: bool, drained=Depends(served(drained))) -> list[str]:
        return [name async for name in drained.stream(*([mine] if own else []))]

    with TestClient(asgi(drained, fastapi=shop)) as one:
        for _ in range(2):
            assert one.get("/drained?own=1").json() == ["c"]
            assert one.get("/drained?own=0").json() == ["b", "a"]
            lines = one.post("/drained", json={}, headers={"accept": "application/x-ndjson"})
            assert len(lines.text.splitlines()) == 2 + ("end" in lines.text)
