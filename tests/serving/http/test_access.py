"""Who may call, without Ray."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from mlkit.serving.http.access import (
    CODE_LIFE_S,
    COOKIE_LIFE_S,
    Access,
    RedeemedCodes,
    new_code,
    new_token,
)

TOKEN = "a-token"
OWN = ("/docs", "/openapi.json", "/healthz", "/readyz", "/swagger/{file}")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guarded(clock):
    """Returns a function: token, name and store of codes to a client of a guarded application."""

    def make(token=TOKEN, name="tag", codes=None):
        async def hello(request):
            return PlainTextResponse("hello")

        async def live(socket):
            await socket.accept()
            await socket.send_text("hello")
            await socket.close()

        own = Starlette(routes=[Route(path, hello) for path in OWN])
        routes = [Route("/tag", hello), WebSocketRoute("/live", live), *own.routes]
        app = Access(Router(routes), own, routes, token, name, codes or RedeemedCodes(), clock)
        return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)

    return make


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer b-token", "bearer a-token", "Basic a-token", "a-token"],
)
def test_without_the_token_it_is_401(guarded, given) -> None:
    answer = guarded().get("/tag", headers={} if given is None else {"authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert TOKEN not in answer.text


def test_the_token_lets_in(guarded) -> None:
    answer = guarded().get("/tag", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.text == "hello"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/swagger/x.js"])
def test_health_is_open(guarded, path) -> None:
    assert guarded().get(path).status_code == 200


def test_a_code_opens_once_and_leaves_a_cookie(guarded, clock) -> None:
    client = guarded()
    code = new_code(TOKEN, "tag", clock)
    first = client.get(f"/docs?code={code}&x=1")
    assert (first.status_code, first.headers["location"]) == (303, "/docs?x=1")
    assert "HttpOnly" in first.headers["set-cookie"]
    assert TOKEN not in first.headers["set-cookie"]
    assert client.get("/docs").text == "hello"
    client.cookies.clear()
    assert client.get(f"/docs?code={code}").status_code == 401


def test_a_code_is_good_for_a_minute(guarded, clock) -> None:
    code = new_code(TOKEN, "tag", clock)
    clock.now += CODE_LIFE_S + 1
    assert guarded().get(f"/docs?code={code}").status_code == 401


def test_a_code_is_not_taken_again_when_old_ones_are_forgotten(guarded, clock) -> None:
    client = guarded()
    code = new_code(TOKEN, "tag", clock)
    assert client.get(f"/docs?code={code}").status_code == 303
    client.cookies.clear()
    for _ in range(4):
        clock.now += CODE_LIFE_S
        assert client.get(f"/docs?code={code}").status_code == 401


@pytest.mark.parametrize("forge", ["token", "app", "time", "signature", "nothing", "text"])
def test_a_forged_code_is_refused(guarded, clock, forge) -> None:
    good = new_code(TOKEN, "tag", clock)
    time, nonce, signature = good.split(".")
    code = {
        "token": new_code("other", "tag", clock),
        "app": new_code(TOKEN, "other", clock),
        "time": f"{int(time) + 30}.{nonce}.{signature}",
        "signature": f"{time}.{nonce}.{'0' * 32}",
        "nothing": "..",
        "text": "x",
    }[forge]
    assert guarded().get(f"/docs?code={code}").status_code == 401


def test_a_code_opens_nothing_but_the_documentation(guarded, clock) -> None:
    code = new_code(TOKEN, "tag", clock)
    assert guarded().get(f"/tag?code={code}").status_code == 401
    assert guarded().get(f"/none?code={code}").status_code == 401


@pytest.mark.parametrize("kept", ["in a folder", "in memory"])
def test_a_code_is_redeemed_once_by_all_replicas_together(guarded, clock, tmp_path, kept) -> None:
    folder = tmp_path if kept == "in a folder" else None
    shared = RedeemedCodes(folder)
    stores = [RedeemedCodes(folder), RedeemedCodes(folder)] if folder else [shared, shared]
    code = new_code(TOKEN, "tag", clock)
    statuses = [guarded(codes=store).get(f"/docs?code={code}").status_code for store in stores]
    assert statuses == [303, 401]


def test_marks_of_expired_codes_are_deleted(guarded, clock, tmp_path) -> None:
    client = guarded(codes=RedeemedCodes(tmp_path))
    (tmp_path / "tag.1.log.jsonl").touch()
    client.get(f"/docs?code={new_code(TOKEN, 'tag', clock)}")
    (first,) = tmp_path.glob("[0-9]*")
    clock.now += 2 * CODE_LIFE_S + 1
    client.cookies.clear()
    client.get(f"/docs?code={new_code(TOKEN, 'tag', clock)}")
    (second,) = tmp_path.glob("[0-9]*")
    assert first != second
    assert (tmp_path / "tag.1.log.jsonl").exists()


@pytest.fixture
def reader(guarded, clock):
    """Returns a function: name of an app to a client that has the cookie of its documentation."""

    def make(name="tag"):
        client = guarded(name=name)
        assert client.get(f"/docs?code={new_code(TOKEN, name, clock)}").status_code == 303
        return client

    return make


@pytest.mark.parametrize(
    ("path", "status"),
    [("/docs", 200), ("/openapi.json", 200), ("/swagger/x.js", 200), ("/tag", 401), ("/no", 401)],
)
def test_the_cookie_opens_the_documentation_only(reader, path, status) -> None:
    assert reader().get(path).status_code == status


def test_the_cookie_expires(reader, clock) -> None:
    client = reader()
    clock.now += COOKIE_LIFE_S - 1
    assert client.get("/docs").status_code == 200
    clock.now += 2
    assert client.get("/docs").status_code == 401


def test_the_cookie_is_good_for_one_app(reader, guarded) -> None:
    value = reader().cookies["mlkit-tag"]
    for name, status in (("tag", 200), ("other", 401)):
        answer = guarded(name=name).get("/docs", headers={"cookie": f"mlkit-{name}={value}"})
        assert answer.status_code == status


def test_the_cookie_is_no_code_and_the_code_is_no_cookie(reader, guarded, clock) -> None:
    value = reader().cookies["mlkit-tag"]
    assert guarded().get(f"/docs?code={value}").status_code == 401
    code = new_code(TOKEN, "tag", clock)
    assert guarded().get("/docs", headers={"cookie": f"mlkit-tag={code}"}).status_code == 401


def test_the_documentation_opens_whatever_the_name_of_the_app(reader) -> None:
    assert reader("größe").get("/docs").status_code == 200


@pytest.mark.parametrize(
    "cookie", ["mlkit-tag=x", "mlkit-tag=", "mlkit-tag", 'mlkit-tag="; x', "\x7f"]
)
def test_a_made_up_cookie_is_refused(guarded, cookie) -> None:
    assert guarded().get("/docs", headers={"cookie": cookie}).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_without_a_token_loopback_names_are_let_in(guarded, host) -> None:
    assert guarded(None).get("/tag", headers={"host": host}).text == "hello"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "testserver"]
)
def test_without_a_token_other_names_are_refused(guarded, host) -> None:
    answer = guarded(None).get("/tag", headers={"host": host})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://127.0.0.1.evil.example",
        "http://localhost.evil.example:8000",
        "null",
        "",
    ],
)
def test_without_a_token_a_page_of_another_host_is_refused(guarded, origin) -> None:
    client = guarded(None)
    assert client.get("/tag", headers={"origin": origin}).status_code == 403
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("ws://127.0.0.1:8000/live", headers={"origin": origin}),
    ):
        pass
    assert refused.value.status_code == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8888", "http://localhost", "http://[::1]:1"])
def test_without_a_token_a_page_of_this_machine_is_let_in(guarded, origin) -> None:
    client = guarded(None)
    assert client.get("/tag", headers={"origin": origin}).text == "hello"
    address = "ws://127.0.0.1:8000/live"
    with client.websocket_connect(address, headers={"origin": origin}) as socket:
        assert socket.receive_text() == "hello"


def test_a_websocket_needs_the_token(guarded) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        guarded().websocket_connect("/live"),
    ):
        pass
    assert refused.value.status_code == 401


def test_the_documentation_of_an_app_opens_with_a_code_under_its_name(face, tagger) -> None:
    client = face(tagger, token=TOKEN)
    moved = client.get(f"/tag/docs?code={new_code(TOKEN, 'tag')}")
    assert (moved.status_code, moved.headers["location"]) == (303, "/tag/docs")
    assert client.get("/tag/docs").status_code == 200
    assert client.get("/tag/openapi.json").json()["security"] == [{"bearer": []}]
    assert client.get("/tag/swagger/swagger-ui.css").status_code == 200
    assert client.post("/tag", json={"image": "data:,x"}).status_code == 401


def test_tokens_differ() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 32


@pytest.mark.parametrize(
    "request_parts",
    [
        {"headers": {"cookie": 'mlkit-tag="\\303\\251"'}},
        {"headers": {"cookie": b"mlkit-tag=\xe9"}},
        {"params": {"code": "\u00e9"}},
        {"params": {"code": "1000000.x.\u00e9"}},
        {"params": {"code": "\u00b2.x.y"}},
    ],
)
def test_characters_beyond_ascii_are_a_wrong_credential_and_no_fault(
    guarded, request_parts
) -> None:
    assert guarded().get("/docs", **request_parts).status_code == 401
