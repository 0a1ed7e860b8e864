"""Who may call, without Ray."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mlkit.serving.http.access import CODE_LIFE_S, Access, new_code, new_token

TOKEN = "a-token"


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
    """Returns a function: token and address to a client of a guarded application."""

    def make(token=TOKEN, address="http://127.0.0.1:8000"):
        async def hello(request):
            return PlainTextResponse("hello")

        paths = ("/tag", "/docs", "/healthz", "/readyz", "/swagger/x.js")
        app = Starlette(routes=[Route(path, hello) for path in paths])
        return TestClient(
            Access(app, token, "tag", clock), base_url=address, follow_redirects=False
        )

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
    code = new_code(TOKEN, clock)
    first = client.get(f"/docs?code={code}&x=1")
    assert (first.status_code, first.headers["location"]) == (303, "/docs?x=1")
    assert "HttpOnly" in first.headers["set-cookie"]
    assert TOKEN not in first.headers["set-cookie"]
    assert client.get("/docs").text == "hello"
    client.cookies.clear()
    assert client.get(f"/docs?code={code}").status_code == 401


def test_a_code_is_good_for_a_minute(guarded, clock) -> None:
    code = new_code(TOKEN, clock)
    clock.now += CODE_LIFE_S + 1
    assert guarded().get(f"/docs?code={code}").status_code == 401


def test_a_code_is_not_taken_again_when_old_ones_are_forgotten(guarded, clock) -> None:
    client = guarded()
    code = new_code(TOKEN, clock)
    assert client.get(f"/docs?code={code}").status_code == 303
    client.cookies.clear()
    for _ in range(4):
        clock.now += CODE_LIFE_S
        assert client.get(f"/docs?code={code}").status_code == 401


@pytest.mark.parametrize("forge", ["token", "time", "signature", "nothing", "text"])
def test_a_forged_code_is_refused(guarded, clock, forge) -> None:
    good = new_code(TOKEN, clock)
    time, nonce, signature = good.split(".")
    code = {
        "token": new_code("other", clock),
        "time": f"{int(time) + 30}.{nonce}.{signature}",
        "signature": f"{time}.{nonce}.{'0' * 32}",
        "nothing": "..",
        "text": "x",
    }[forge]
    assert guarded().get(f"/docs?code={code}").status_code == 401


@pytest.mark.parametrize(
    "cookie", ["mlkit-tag=x", "mlkit-tag=", "mlkit-tag", 'mlkit-tag="; x', "\x7f"]
)
def test_a_made_up_cookie_is_refused(guarded, cookie) -> None:
    assert guarded().get("/tag", headers={"cookie": cookie}).status_code == 401


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


def test_the_documentation_of_an_app_opens_with_a_code_under_its_name(face, tagger) -> None:
    client = face(tagger, token=TOKEN)
    moved = client.get(f"/tag/docs?code={new_code(TOKEN)}")
    assert (moved.status_code, moved.headers["location"]) == (303, "/tag/docs")
    assert client.get("/tag/docs").status_code == 200
    assert client.get("/tag/openapi.json").json()["security"] == [{"bearer": []}]


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
