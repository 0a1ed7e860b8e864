"""What every request goes through, and the six ways in which it ends; without Ray."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from mlkit import InputError, codec, pipeline, step
from mlkit.errors import Cancelled, DeadlineExceeded, MlkitError, Overloaded, StepError
from mlkit.execute import Executor, compile_graph
from mlkit.execute.priority import Priority
from mlkit.metrics import Recorder
from mlkit.serving import Limits, served
from mlkit.serving.http.ingress import create_app
from mlkit.serving.http.lifecycle import Served
from mlkit.serving.http.observer import Observer
from mlkit.serving.http.outcome import Outcome, outcome_of
from mlkit.serving.http.terms import Terms

EVENTS = (b"accept", b"text/event-stream")


@step
def run(x: int) -> int:
    if x == 4:
        raise InputError("no fours")
    if x == 5:
        raise ValueError("no fives")
    return x


@pipeline
def number(x: int) -> int:
    return run(x)


class Exchange:
    """One request to an ASGI application: its body comes in parts, as `feed` gives them."""

    def __init__(self, app, path: str, *headers: tuple[bytes, bytes]) -> None:
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.read = 0
        self.sent: list[dict] = []
        self.came = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "headers": [
                (b"host", b"127.0.0.1"),
                (b"content-type", b"application/json"),
                *headers,
            ],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict:
        message = await self.messages.get()
        self.read += 1
        return message

    async def _send(self, message: dict) -> None:
        self.sent.append(message)
        self.came.set()

    def feed(self, body: bytes, more: bool = False) -> "Exchange":
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def leave(self) -> "Exchange":
        self.messages.put_nowait({"type": "http.disconnect"})
        return self

    async def status(self) -> int:
        await asyncio.wait_for(self.task, 10)
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


@asynccontextmanager
async def serving(pipe, fastapi: FastAPI | None = None, **limits) -> AsyncIterator[tuple]:
    """The application of a pipeline and what it serves, counted but not sent anywhere."""
    loop = asyncio.get_running_loop()
    with Executor(compile_graph(pipe.graph), workers=1, loop=loop) as executor:
        one = Served(executor, Limits(**limits), observer=Observer(Recorder("test")))
        app = create_app(pipe.graph, lambda: one, one.limits, None, fastapi=fastapi)
        yield app, one


def counted(one: Served) -> dict[str, int]:
    """How often each status was counted."""
    return one.observer.recorder.take()["status"]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Held:
    """A pipeline whose step waits until it is let go."""

    def __init__(self) -> None:
        self.go = go = threading.Event()

        @step
        def hold(x: int) -> int:
            assert go.wait(20)
            return x

        @pipeline
        def number(x: int) -> int:
            return hold(x)

        self.pipeline = number


@pytest.fixture
def held():
    one = Held()
    yield one
    one.go.set()


# ---- admission ----------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_those_whose_bodies_are_still_coming_keep_their_places(own) -> None:
    async def main() -> None:
        fastapi = FastAPI() if own else None
        async with serving(number, fastapi, max_ongoing_requests=2) as (app, one):
            dripping = [Exchange(app, "/number").feed(b'{"x"', more=True) for _ in range(2)]
            await turns()
            refused = Exchange(app, "/number").feed(b'{"x": 1}')
            assert await refused.status() == 503
            assert refused.read == 0
            assert refused.headers[b"retry-after"] == b"1"
            assert not one.failures.last
            for exchange in dripping:
                assert await exchange.feed(b": 1}").status() == 200
            assert one.ongoing == 0
            assert counted(one) == {"200": 2, "503": 1}

    asyncio.run(main())


def test_a_stream_keeps_its_place_until_its_end(held) -> None:
    async def main() -> None:
        async with serving(held.pipeline, max_ongoing_requests=1) as (app, one):
            stream = Exchange(app, "/number", EVENTS).feed(b'{"x": 1}')
            await asyncio.wait_for(stream.came.wait(), 10)
            assert await Exchange(app, "/number").feed(b'{"x": 2}').status() == 503
            held.go.set()
            assert await stream.status() == 200
            assert b"event: result" in stream.sent[-2]["body"]
            assert one.ongoing == 0
            assert counted(one) == {"200": 1, "503": 1}

    asyncio.run(main())


def test_a_stream_whose_client_leaves_ends_and_is_not_counted(held) -> None:
    async def main() -> None:
        async with serving(held.pipeline) as (app, one):
            stream = Exchange(app, "/number", EVENTS).feed(b'{"x": 1}')
            await asyncio.wait_for(stream.came.wait(), 10)
            stream.leave()
            await asyncio.wait_for(stream.task, 10)
            await turns()
            assert (one.ongoing, one.executor.in_flight) == (0, 0)
            assert (counted(one), list(one.failures.last)) == ({}, [])
            held.go.set()

    asyncio.run(main())


class Unsendable:
    pass


def test_the_place_is_given_back_however_a_request_ends(held) -> None:
    @step
    def odd(x: int) -> Unsendable:
        return Unsendable()

    @pipeline
    def unsent(x: int) -> Unsendable:
        return odd(x)

    def refuse(value: Unsendable) -> int:
        raise RuntimeError("not to be written")

    codec(Unsendable, encode=refuse, decode=lambda value: Unsendable())

    async def main() -> None:
        async with serving(number, max_body_bytes=20) as (app, one):
            for body in (b'{"x": 1}', b'{"x": 4}', b'{"x": 5}', b"{", b"", bytes(50)):
                await Exchange(app, "/number").feed(body).status()
                assert one.ongoing == 0
            assert await Exchange(app, "/number").leave().status() == 499
            assert one.ongoing == 0
            assert counted(one) == {"200": 1, "422": 3, "500": 1, "413": 1}
        async with serving(unsent) as (app, one):
            assert await Exchange(app, "/unsent").feed(b'{"x": 1}').status() == 500
            assert one.ongoing == 0
        async with serving(held.pipeline) as (app, one):
            given_up = Exchange(app, "/number").feed(b'{"x": 1}')
            await turns()
            assert one.ongoing == 1
            given_up.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up.task
            assert (one.ongoing, counted(one), list(one.failures.last)) == (0, {}, [])
            held.go.set()

    asyncio.run(main())


# ---- deadline -----------------------------------------------------------------------------------


def test_a_body_that_drips_past_the_deadline_is_504() -> None:
    async def main() -> None:
        async with serving(number, request_timeout_s=0.05) as (app, one):
            slow = Exchange(app, "/number").feed(b'{"x"', more=True)
            assert await slow.status() == 504
            assert (one.ongoing, counted(one), list(one.failures.last)) == (0, {"504": 1}, [])

    asyncio.run(main())


def test_the_time_that_reading_took_is_not_there_for_the_steps(held, monkeypatch) -> None:
    async def main() -> None:
        async with serving(held.pipeline) as (app, one):
            deadlines = []
            run = one.executor.run

            async def spy(arguments, *, deadline, **options):
                deadlines.append(deadline)
                return await run(arguments, deadline=deadline, **options)

            monkeypatch.setattr(one.executor, "run", spy)
            for module in ("lifecycle", "terms"):
                monkeypatch.setattr(f"mlkit.serving.http.{module}.perf_counter", lambda: clock[0])
            clock = [1000.0]
            slow = Exchange(app, "/number").feed(b'{"x"', more=True)
            await turns()
            clock[0] = 1030.0
            slow.feed(b": 1}")
            await turns()
            assert deadlines == [1060.0]
            held.go.set()
            slow.task.cancel()

    asyncio.run(main())


class Clock:
    pass


def test_a_timeout_that_reading_raises_is_no_deadline() -> None:
    @step
    def tick(clock: Clock) -> int:
        return 1

    @pipeline
    def timed(clock: Clock) -> int:
        return tick(clock)

    def decode(value: object) -> Clock:
        raise TimeoutError("the clock stands still")

    codec(Clock, encode=lambda clock: 1, decode=decode)

    async def main() -> None:
        async with serving(timed) as (app, one):
            # In two parts, so that a timer runs meanwhile.
            late = Exchange(app, "/timed").feed(b'{"clock"', more=True)
            await turns()
            assert await late.feed(b": 1}").status() == 500
            (failure,) = one.failures.last
            assert "the clock stands still" in failure.error

    asyncio.run(main())


TIMEOUT, PRIORITY = b"x-request-timeout-seconds", b"x-priority"


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(b"2.5", 2.5), (b" 7 ", 7.0), (b"1e1", 10.0), (b"600", 60.0)]
)
def test_a_client_can_ask_for_less_time_and_not_for_more(timeout, seconds) -> None:
    assert Terms(100.0, 60.0).asked({TIMEOUT: timeout}).deadline == 100.0 + seconds


@pytest.mark.parametrize(
    ("ago_s", "spent_s"), [(0.0, 0.0), (20.0, 20.0), (3600.0, 3600.0), (-3600.0, 0.0)]
)
def test_the_time_counts_from_the_reception_at_the_front_end(monkeypatch, ago_s, spent_s) -> None:
    monkeypatch.setattr("mlkit.serving.http.terms.time", lambda: 1.7e9)
    received = f"{(1.7e9 - ago_s) * 1e6:.0f}".encode()
    asked = Terms(100.0, 60.0).asked({b"x-mlkit-received": received, TIMEOUT: b"30"})
    assert asked.deadline == pytest.approx(130.0 - spent_s)
    assert (asked.received_at, asked.timeout_s) == (100.0, 30.0)


@pytest.mark.parametrize("received", [b"", b"-1", b"soon", b"1e9", b"\xff", b"1" * 5000])
def test_a_time_of_reception_that_is_none_is_ignored(received) -> None:
    assert Terms(100.0, 60.0).asked({b"x-mlkit-received": received}).spent_s == 0.0


def test_a_request_whose_replica_died_late_is_late_at_the_next(face) -> None:
    response = face(number).post("/number", json={"x": 1}, headers={"X-Mlkit-Received": "1"})
    assert response.status_code == 504


def test_terms_without_headers_are_those_of_the_limits() -> None:
    assert Terms(100.0, 60.0).asked({}) == Terms(100.0, 60.0, Priority.INTERACTIVE)
    assert Terms(100.0, 60.0).asked({PRIORITY: b"Bulk"}) == Terms(100.0, 60.0, Priority.BULK)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((TIMEOUT, value, "a positive number") for value in (b"", b"0", b"-1", b"nan", b"inf")),
        *((TIMEOUT, value, "a positive number") for value in (b"soon", b"1,5", b"2s", b"\xff")),
        *((PRIORITY, value, "interactive or bulk") for value in (b"", b"1", b"urgent", b"\xff")),
    ],
)
def test_an_invalid_header_is_invalid_input_that_names_it(face, name, value, expected) -> None:
    client = face(number)
    answer = client.post("/number", json={"x": 1}, headers={name: value})
    assert answer.status_code == 422
    assert expected in answer.json()["detail"]
    assert answer.json()["errors"][0]["loc"] == ["header", name.decode()]
    assert client.served.ongoing == 0


@pytest.mark.parametrize("own", [False, True])
def test_a_request_ends_at_the_deadline_that_its_client_set(held, client_of, own) -> None:
    fastapi = shop_of(held.pipeline) if own else None
    client = client_of(fastapi, held.pipeline)
    headers = {TIMEOUT: b"0.05"}
    if own:
        problem(client.get("/shop/1", headers=headers), 504)
        problem(client.get("/shop/1", headers={TIMEOUT: b"soon"}), 422)
    else:
        problem(client.post("/number", json={"x": 1}, headers=headers), 504)
    assert client.served.ongoing == 0


def test_expired_requests_do_not_reach_the_step() -> None:
    held, calls = threading.Event(), []

    @step
    def model(x: int) -> int:
        calls.append(x)
        assert held.wait(20)
        return x

    @pipeline
    def number(x: int) -> int:
        return model(x)

    async def main() -> None:
        async with serving(number) as (app, one):
            first = Exchange(app, "/number").feed(b'{"x": 0}')
            while not calls:
                await asyncio.sleep(0.001)
            late = [
                Exchange(app, "/number", (TIMEOUT, b"0.01")).feed(b'{"x": %d}' % i)
                for i in range(1, 101)
            ]
            assert {await exchange.status() for exchange in late} == {504}
            held.set()
            assert await first.status() == 200
            assert calls == [0]
            assert (one.ongoing, counted(one)) == (0, {"200": 1, "504": 100})

    asyncio.run(main())


def test_an_interactive_request_passes_a_job_in_the_queue_and_at_the_door(held) -> None:
    done: list[int] = []

    async def main() -> None:
        async with serving(held.pipeline, max_ongoing_requests=8) as (app, one):

            def ask(x: int, *headers: tuple[bytes, bytes]) -> Exchange:
                exchange = Exchange(app, "/number", *headers).feed(b'{"x": %d}' % x)
                exchange.task.add_done_callback(lambda _: done.append(x))
                return exchange

            job = [ask(x, (PRIORITY, b"bulk")) for x in range(8)]
            await turns()
            assert one.ongoing == 6
            assert [await exchange.status() for exchange in job[6:]] == [503, 503]
            while one.executor.queued()["hold"] != 5:  # the first one runs
                await asyncio.sleep(0.001)
            calls = [ask(x) for x in (10, 11)]
            await turns()
            assert await ask(12).status() == 503  # it is full
            held.go.set()
            for exchange in (*job[:6], *calls):
                assert await exchange.status() == 200
            await turns()
            assert [x for x in done if x < 6 or x in (10, 11)] == [0, 10, 11, 1, 2, 3, 4, 5]

    asyncio.run(main())


def test_what_clients_may_ask_for_is_documented(face) -> None:
    operation = face(number).get("/openapi.json").json()["paths"]["/number"]["post"]
    headers = {p["name"]: p["schema"] for p in operation["parameters"] if p["in"] == "header"}
    assert headers["X-Request-Timeout-Seconds"] == {"type": "number", "exclusiveMinimum": 0}
    assert headers["X-Priority"]["enum"] == ["interactive", "bulk"]
    assert operation["responses"]["503"]["headers"].keys() == {"Retry-After"}


# ---- outcomes -----------------------------------------------------------------------------------


def in_step(cause: BaseException) -> StepError:
    error = StepError("it raised", step="s", pipeline="p")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (None, Outcome.ANSWERED, 200),
        (InputError("no"), Outcome.REFUSED, 422),
        (in_step(InputError("no")), Outcome.REFUSED, 422),
        (HTTPException(404), Outcome.REFUSED, 404),
        (in_step(HTTPException(304)), Outcome.ANSWERED, 304),
        (in_step(HTTPException(404)), Outcome.REFUSED, 404),
        (in_step(HTTPException(499)), Outcome.REFUSED, 499),
        (in_step(HTTPException(503)), Outcome.FAILED, 503),
        (Overloaded("full"), Outcome.OVERLOADED, 503),
        (in_step(Overloaded("full")), Outcome.OVERLOADED, 503),
        (DeadlineExceeded("late"), Outcome.LATE, 504),
        (ClientDisconnect(), Outcome.LEFT, 499),
        (asyncio.CancelledError(), Outcome.LEFT, 499),
        (Cancelled("given up"), Outcome.LEFT, 499),
        (in_step(ValueError("no")), Outcome.FAILED, 500),
        (in_step(TimeoutError()), Outcome.FAILED, 500),
        (MlkitError("no"), Outcome.FAILED, 500),
        (KeyError("no"), Outcome.FAILED, 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_stands_for_one_of_six_outcomes(error, outcome, status) -> None:
    assert outcome_of(error) == (outcome, status)


def test_a_full_stage_is_no_failure_and_says_when_to_come_back(face) -> None:
    @step
    def far(x: int) -> int:
        raise Overloaded("too many requests are queued for it", retry_after_s=2.5)

    @pipeline
    def away(x: int) -> int:
        return far(x)

    client = face(away)
    answer = client.post("/away", json={"x": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert "too many requests are queued for it" in answer.json()["detail"]
    assert not client.served.failures.last


# ---- routes of the user's -----------------------------------------------------------------------


def shop_of(number) -> FastAPI:
    shop = FastAPI()

    @shop.get("/shop/{x}")
    async def get(x: str, number=Depends(served(number))) -> int:
        return await number(int(x) if x.isdecimal() else {})

    return shop


@pytest.fixture
def shop() -> FastAPI:
    return shop_of(number)


@pytest.fixture
def client_of() -> Callable:
    """Returns a function: an application of one's own to a client of it, and what is served."""
    opened = []

    def make(fastapi: FastAPI, pipe=number, *, ready: bool = True, **limits):
        executor = Executor(compile_graph(pipe.graph), workers=1)
        opened.append(executor)
        one = Served(executor, Limits(**limits), observer=Observer(Recorder("test")))
        app = create_app(
            pipe.graph, lambda: one if ready else None, one.limits, None, fastapi=fastapi
        )
        client = TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)
        client.served = one
        return client

    yield make
    for executor in opened:
        executor.close(wait=False)


def problem(answer, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def test_a_route_of_the_users_has_the_same_outcomes(shop, client_of) -> None:
    client = client_of(shop)
    assert client.get("/shop/1").json() == 1
    problem(client.get("/shop/4"), 422)
    problem(client.get("/shop/not-a-number"), 422)
    failed = problem(client.get("/shop/5"), 500)
    (failure,) = client.served.failures.last
    assert failed["failure_id"] == failure.id
    assert counted(client.served) == {"200": 1, "422": 2, "500": 1}
    assert client.served.ongoing == 0


def test_a_route_of_the_users_is_admitted_and_timed(held, client_of) -> None:
    client = client_of(
        shop_of(held.pipeline), held.pipeline, max_ongoing_requests=1, request_timeout_s=0.05
    )
    problem(client.get("/shop/1"), 504)
    client.served.ongoing = 1
    assert problem(client.get("/shop/1"), 503)
    assert client.get("/shop/1").headers["retry-after"] == "1"
    assert client.served.ongoing == 1
    assert counted(client.served) == {"504": 1, "503": 2}


def test_a_route_before_the_pipeline_is_ready_is_503(shop, client_of) -> None:
    answer = client_of(shop, ready=False).get("/shop/1")
    assert "not ready yet" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "1"


def test_a_failure_is_recorded_though_the_application_answers_it_itself(shop, client_of) -> None:
    @shop.exception_handler(StepError)
    async def mine(request: Request, error: StepError) -> Response:
        return Response("mine", 418)

    @shop.websocket("/live")
    async def live(socket: WebSocket, number=Depends(served(number))) -> None:
        await socket.accept()
        with pytest.raises(StepError):
            await number(5)
        await socket.close()

    client = client_of(shop)
    assert client.get("/shop/5").text == "mine"
    assert len(client.served.failures.last) == 1
    with client.websocket_connect("ws://127.0.0.1/live"):
        pass
    assert len(client.served.failures.last) == 2


def test_what_an_application_does_not_handle_is_a_problem_document(shop, client_of) -> None:
    @shop.get("/boom")
    def boom() -> int:
        raise RuntimeError("boom")

    @shop.get("/wrong")
    def wrong() -> int:
        return "no number"

    @shop.get("/unchanged")
    def unchanged() -> int:
        raise HTTPException(304)

    @shop.get("/teapot")
    def teapot() -> int:
        raise HTTPException(418, "no coffee")

    client = client_of(shop)
    assert problem(client.get("/boom"), 500)["failure_id"] == client.served.failures.last[-1].id
    assert problem(client.get("/wrong"), 500)["failure_id"] == client.served.failures.last[-1].id
    assert problem(client.get("/teapot"), 418)["detail"] == "no coffee"
    assert len(client.served.failures.last) == 2
    problem(client.get("/nowhere"), 404)
    problem(client.delete("/boom"), 405)
    answer = client.get("/unchanged")
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize("kind", [500, Exception])
def test_an_application_that_handles_everything_itself_does(shop, client_of, kind) -> None:
    @shop.exception_handler(kind)
    async def mine(request: Request, error: Exception) -> Response:
        return Response("mine", 500)

    @shop.get("/boom")
    def boom() -> int:
        raise RuntimeError("boom")

    assert client_of(shop).get("/boom").text == "mine"


def test_a_dependency_of_the_whole_application_may_read_the_body(client_of) -> None:
    seen = []

    async def look(request: Request, later: BackgroundTasks) -> None:
        seen.append(await request.body())
        later.add_task(seen.append, "later")

    client = client_of(FastAPI(dependencies=[Depends(look)]))
    assert client.post("/number", json={"x": 1}).json() == 1
    assert seen == [b'{"x":1}', "later"]
