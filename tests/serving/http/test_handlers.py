"""What a step raises, as a response: `HTTPException`, and the user's own exception handlers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fastapi
import pytest
import starlette.exceptions
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient

from mlkit import InputError, batched_step, pipeline, step
from mlkit.errors import MlkitError, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.metrics import Recorder
from mlkit.serving import asgi, served
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.observer import Observer
from mlkit.serving.limits import Limits
from mlkit.serving.replica.remote import fault_of


class SoldOut(Exception):
    """An error of the shop, with a constructor of its own."""

    def __init__(self, sku: str, *, left: int) -> None:
        super().__init__(f"{sku} is sold out")
        self.sku = sku
        self.left = left


class Gone(SoldOut):
    pass


ERRORS = {
    "missing": lambda: fastapi.HTTPException(404, "no such product", {"x-why": "so"}),
    "keywords": lambda: fastapi.HTTPException(status_code=409, detail={"code": 3}),
    "starlette": lambda: starlette.exceptions.HTTPException(status_code=402, detail="pay"),
    "upstream": lambda: fastapi.HTTPException(502, "upstream is down"),
    "later": lambda: fastapi.HTTPException(503, "closed", {"Retry-After": "60"}),
    "unchanged": lambda: fastapi.HTTPException(304, headers={"etag": "x"}),
    "sold": lambda: SoldOut("ab", left=0),
    "gone": lambda: Gone("cd", left=1),
    "input": lambda: InputError("no words"),
    "boom": lambda: ValueError("no boom please"),
}


@step
def split(text: str) -> list[str]:
    if text in ERRORS:
        raise ERRORS[text]()
    return text.split()


@pipeline
def words(text: str) -> list[str]:
    return split(text)


def shop_app(*handled: type[Exception] | int) -> FastAPI:
    shop = FastAPI()

    @shop.get("/plain")
    def plain(q: str, words=Depends(served(words))) -> list[str]:
        return words(q)

    @shop.get("/awaited")
    async def awaited(q: str, words=Depends(served(words))) -> list[str]:
        return await words(q)

    async def handle(request: Request, error: Exception) -> Response:
        sku = getattr(error, "sku", "")
        return JSONResponse([type(error).__name__, sku, request.url.path], 418)

    for kind in handled:
        shop.add_exception_handler(kind, handle)
    return shop


@pytest.fixture
def client():
    """Returns a function: application to a client of it."""

    def make(shop: FastAPI | None = None, pipe=words) -> TestClient:
        return TestClient(asgi(pipe, fastapi=shop), raise_server_exceptions=False)

    return make


def ask(client: TestClient, way: str, text: str):
    if way == "/words":
        return client.post("/words", json={"text": text})
    return client.get(way, params={"q": text})


WAYS = ["/words", "/plain", "/awaited"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("text", "status", "detail", "headers"),
    [
        ("missing", 404, "no such product", {"x-why": "so"}),
        ("keywords", 409, {"code": 3}, {}),
        ("starlette", 402, "pay", {}),
        ("upstream", 502, "upstream is down", {}),
        ("later", 503, "closed", {"retry-after": "60"}),
    ],
)
def test_an_http_exception_of_a_step_is_the_answer(
    client, way, text, status, detail, headers
) -> None:
    answer = ask(client(shop_app()), way, text)
    document = answer.json()
    assert (answer.status_code, document["status"], document["detail"]) == (status, status, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert headers.items() <= dict(answer.headers).items()
    assert (document["step"], document["pipeline"]) == ("split", "words")
    assert ("failure_id" in document) == (status >= 500)


def test_an_http_exception_without_a_body_has_none(client) -> None:
    answer = client().post("/words", json={"text": "unchanged"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", "x")


def test_a_local_call_raises_a_step_error() -> None:
    with pytest.raises(StepError) as caught:
        words("missing")
    assert isinstance(caught.value.__cause__, fastapi.HTTPException)


def test_an_http_exception_is_an_event_of_a_stream(client) -> None:
    answer = client().post("/words", json={"text": "missing"}, headers={"accept": STREAM})
    assert '"event": "problem"' in answer.text
    assert '"status": 404' in answer.text


STREAM = "application/x-ndjson"


@batched_step(max_batch_size=8, batch_wait_timeout_s=0.2)
def split_all(text: list[str]) -> list[list[str]]:
    for each in text:
        if each in ERRORS:
            raise ERRORS[each]()
    return [each.split() for each in text]


@pipeline
def together(text: str) -> list[str]:
    return split_all(text)


def test_an_http_exception_for_one_item_of_a_batch_is_its_answer_alone(client) -> None:
    texts = ["a", "missing", "b", "gone", "c"]
    shop = FastAPI()
    with client(shop, together) as one, ThreadPoolExecutor(len(texts)) as threads:
        answers = list(threads.map(lambda text: one.post("/together", json={"text": text}), texts))
    assert [answer.status_code for answer in answers] == [200, 404, 200, 500, 200]


@pytest.mark.parametrize(("text", "failures"), [("missing", 0), ("later", 1), ("upstream", 1)])
def test_only_an_http_exception_from_500_on_counts_as_a_failure(text, failures) -> None:
    with Executor(compile_graph(words.graph)) as executor:
        pipe = Served(executor, Limits())
        app = create_app(words.graph, lambda: pipe, Limits(), None, fastapi=shop_app())
        client = TestClient(app, base_url="http://127.0.0.1")
        for way in WAYS:
            ask(client, way, text)
    assert len(pipe.failures.last) == failures * len(WAYS)


# ---- the user's own handlers ---------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("handled", "text", "answered"),
    [
        (SoldOut, "sold", ["SoldOut", "ab"]),
        (SoldOut, "gone", ["Gone", "cd"]),
        (fastapi.HTTPException, "missing", ["HTTPException", ""]),
        (starlette.exceptions.HTTPException, "missing", ["HTTPException", ""]),
        (404, "missing", ["HTTPException", ""]),
        (ValueError, "boom", ["ValueError", ""]),
        (Exception, "boom", ["ValueError", ""]),
        (500, "boom", ["ValueError", ""]),
        (StepError, "boom", ["StepError", ""]),
        (MlkitError, "boom", ["StepError", ""]),
        (InputError, "input", ["InputError", ""]),
    ],
)
def test_a_handler_of_the_application_gets_what_a_step_raised(
    client, way, handled, text, answered
) -> None:
    answer = ask(client(shop_app(handled)), way, text)
    assert (answer.status_code, answer.json()) == (418, [*answered, way])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("handled", "text", "status"),
    [
        (Gone, "sold", 500),
        (409, "missing", 404),
        (Exception, "input", 422),  # mlkit's own answer
        (ValueError, "input", 422),
        (Exception, "missing", 404),
        (Exception, "upstream", 502),
    ],
)
def test_a_handler_for_something_else_does_not(client, way, handled, text, status) -> None:
    answer = ask(client(shop_app(handled)), way, text)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_most_specific_handler_counts(client) -> None:
    shop = shop_app(Exception, SoldOut)
    shop.add_exception_handler(Gone, lambda request, error: Response("plain function", 410))
    answer = ask(client(shop), "/words", "gone")
    assert (answer.status_code, answer.text) == (410, "plain function")


def test_what_a_handler_answers_is_recorded_as_a_failure_with_its_status() -> None:
    with Executor(compile_graph(words.graph)) as executor:
        recorder = Recorder("words")
        pipe = Served(executor, Limits(), observer=Observer(recorder))
        app = create_app(words.graph, lambda: pipe, Limits(), None, fastapi=shop_app(SoldOut))
        answer = ask(TestClient(app, base_url="http://127.0.0.1"), "/words", "sold")
    assert answer.headers["x-request-id"]
    (failure,) = pipe.failures.last
    assert failure.error == "SoldOut: ab is sold out"


def test_a_handler_may_stream(client) -> None:
    shop = shop_app()
    shop.add_exception_handler(SoldOut, lambda *_: StreamingResponse(iter("ab"), 418))
    assert ask(client(shop), "/words", "sold").text == "ab"


def test_a_handler_gets_errors_of_the_request_to_the_pipelines_own_route(client) -> None:
    answer = client(shop_app(InputError)).post("/words", json={})
    assert answer.json() == ["Invalid", "", "/words"]


# ---- across a stage ------------------------------------------------------------------------------


def across(cause: Exception) -> BaseException:
    error = StepError("it raised", step="split", pipeline="words")
    error.__cause__ = cause
    raised = fault_of(error).error("words", "segment").__cause__
    assert raised is not None
    return raised


@pytest.mark.parametrize("name", ["missing", "keywords", "starlette", "unchanged"])
def test_an_http_exception_crosses_a_stage(name) -> None:
    cause, raised = ERRORS[name](), across(ERRORS[name]())
    assert type(raised) is type(cause)
    assert vars(raised) == vars(cause)


def test_an_error_with_a_constructor_of_its_own_crosses_a_stage() -> None:
    raised = across(Gone("cd", left=1))
    assert isinstance(raised, Gone)
    assert (str(raised), raised.sku, raised.left) == ("cd is sold out", "cd", 1)


@pytest.mark.parametrize(
    "cause",
    [
        OSError(2, "no such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        KeyError("k"),
        InputError("no", got="x"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_other_errors_cross_a_stage_as_they_are(cause) -> None:
    raised = across(cause)
    assert (type(raised), raised.args, str(raised)) == (type(cause), cause.args, str(cause))


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.generator = (each for each in text)


def test_an_error_that_cannot_be_pickled_keeps_its_text() -> None:
    raised = across(Unpicklable("what happened"))
    assert isinstance(raised, MlkitError)
