"""The page on which a pipeline can be tried, and its route, in process."""

import json
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mlkit import Image, InputError, pipeline, step
from mlkit.serving import asgi
from mlkit.serving.http.access import new_code

ADDRESS = "http://127.0.0.1"
TOKEN = "t0ken"


@step
def look(image: Image, title: str) -> dict[str, str]:
    if title == "bad":
        raise InputError("no picture of a product", fix="send another")
    if title == "boom":
        raise ValueError("secret")
    return {"title": title, "size": f"{image.width}x{image.height}"}


@pipeline
def tag(image: Image, title: str = "<b>none</b>") -> dict[str, str]:
    "Tag one product."
    return look(image, title)


@step
def count(n: int) -> Iterator[int]:
    for i in range(n):
        if i == 3:
            raise ValueError("no more")
        yield i


@pipeline
def counted(n: int) -> Iterator[int]:
    return count(n)


@pytest.fixture
def client():
    """Returns a function: pipeline to a client of its application."""

    def make(pipe=tag, **options):
        return TestClient(asgi(pipe, **options), base_url=ADDRESS, follow_redirects=False)

    return make


@pytest.fixture
def picture():
    import numpy as np

    return Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()


def events(answer):
    return [(e["event"], e["data"]) for e in map(json.loads, answer.text.splitlines())]


@pytest.mark.parametrize("path", ["/try", "/tag/try"])
def test_the_page_is_whole_and_loads_nothing(client, path) -> None:
    page = client().get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(re.findall(r'(?:src|href)="(.*?)"', page.text)) <= {"data:,", "docs"}
    assert "https://" not in page.text
    assert "&lt;b&gt;none&lt;/b&gt;" in page.text
    assert "<b>none</b>" not in page.text


def test_the_policy_allows_the_script_of_the_page_and_no_other(client) -> None:
    import base64
    import hashlib

    page = client().get("/try")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    assert not re.search(r"\son\w+=", page.text)


def test_an_answer_is_rendered_with_its_steps_and_its_json(client, picture) -> None:
    answer = client().post("/try", files={"image": picture}, data={"title": "<i>"})
    (step_, step_data), (result, data) = events(answer)
    assert (step_, step_data["step"], result) == ("step", "look", "result")
    assert json.loads(data["json"]) == {"title": "<i>", "size": "12x8"}
    assert "&lt;i&gt;" in data["html"]
    assert "<i>" not in data["html"]


def test_a_result_that_is_a_picture_is_shown(client, picture) -> None:
    @step
    def same(image: Image) -> Image:
        return image

    @pipeline
    def shown(image: Image) -> Image:
        return same(image)

    *_, (_, data) = events(client(shown).post("/try", files={"image": picture}))
    assert "data:image/png;base64," in data["html"]
    assert "json" not in data


def test_items_are_sent_as_they_are_made(client) -> None:
    made = events(client(counted).post("/try", json={"n": 2}))
    assert [(name, data.get("json")) for name, data in made[:-1]] == [("item", "0"), ("item", "1")]
    assert made[-1] == ("end", {"items": 2})
    name, data = events(client(counted).post("/try", json={"n": 5}))[-1]
    assert (name, data["status"]) == ("problem", 500)


def test_errors_name_their_field_or_their_step(client, picture) -> None:
    invalid = client().post("/try", json={"title": 3})
    assert invalid.status_code == 422
    places = [error["loc"] for error in invalid.json()["errors"]]
    assert places == [["body", "image"], ["body", "title"]]
    for title, status in (("bad", 422), ("boom", 500)):
        answer = client().post("/try", files={"image": picture}, data={"title": title})
        name, problem = events(answer)[-1]
        assert (name, problem["status"], problem["step"]) == ("problem", status, "look")
        assert "secret" not in answer.text


def test_a_link_opens_the_page_and_lets_it_send_requests(client, picture) -> None:
    reader = client(token=TOKEN)
    assert reader.get("/try").status_code == 401
    assert reader.post("/try", files={"image": picture}).status_code == 401
    code = new_code(TOKEN, "tag", page="try")
    assert reader.get(f"/try?code={code}").headers["location"] == "/try"
    page = reader.get("/try")
    assert page.status_code == 200
    assert TOKEN not in page.text
    assert reader.post("/try", files={"image": picture}).status_code == 200
    assert reader.post("/tag", files={"image": picture}).status_code == 401
    assert reader.get("/docs").status_code == 200


def test_the_documentation_has_no_access_to_it(client, picture) -> None:
    reader = client(token=TOKEN)
    assert reader.get(f"/docs?code={new_code(TOKEN, 'tag')}").status_code == 303
    assert reader.get("/docs").status_code == 200
    assert reader.get("/try").status_code == 401
    assert reader.post("/try", files={"image": picture}).status_code == 401
    assert reader.get(f"/try?code={new_code(TOKEN, 'tag')}").status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (ADDRESS, 200),
        (None, 200),
        ("http://127.0.0.1:3000", 401),
        ("https://shop.example", 401),
        ("null", 401),
    ],
)
def test_pages_of_others_cannot_use_the_cookie(client, picture, origin, status) -> None:
    reader = client(token=TOKEN)
    reader.get(f"/try?code={new_code(TOKEN, 'tag', page='try')}")
    headers = {} if origin is None else {"Origin": origin}
    answer = reader.post("/try", files={"image": picture}, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/try", "/tag/try"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_of_the_user_is_not_shadowed(client, path, method) -> None:
    shop = FastAPI()

    @shop.api_route(path, methods=[method])
    def own() -> str:
        return "mine"

    reader = client(fastapi=shop)
    assert reader.request(method, path).json() == "mine"
    other = "GET" if method == "POST" else "POST"
    assert reader.request(other, path).status_code == 405


def test_it_is_in_no_document(client) -> None:
    assert "/try" not in client().get("/openapi.json").json()["paths"]
