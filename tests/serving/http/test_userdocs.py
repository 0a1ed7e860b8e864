"""The OpenAPI document of a user's application."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import OAuth2PasswordBearer
from fastapi.testclient import TestClient

from mlkit import ImageSource, pipeline, step
from mlkit.serving import asgi, served
from mlkit.serving.http.access import new_code

TOKEN = "t0ken"
KEY = {"x-mlkit-token": TOKEN}


@step
def split(text: str) -> list[str]:
    return text.split()


@step
def size(image: ImageSource) -> int:
    return len(image)


@pipeline
def words(text: str) -> list[str]:
    return split(text)


@pipeline
def sized(image: ImageSource) -> int:
    return size(image)


@pytest.fixture
def document():
    """Returns a function: application to its OpenAPI document."""

    def read(shop: FastAPI, path: str = "/openapi.json", pipe: Any = words, **options: Any) -> Any:
        return TestClient(asgi(pipe, fastapi=shop, **options)).get(path, headers=KEY).json()

    return read


def shop_app(**options: Any) -> FastAPI:
    shop = FastAPI(**options)

    @shop.get("/hello")
    def hello(q: int, words: Any = Depends(served(words))) -> int:
        return q

    return shop


def schema_of(document: Any, path: str, status: str) -> Any:
    return document["paths"][path]["get"]["responses"][status]["content"]


def test_routes_declare_the_problem_document_that_they_answer(document) -> None:
    described = document(shop_app())
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    assert schema_of(described, "/hello", "422") == {"application/problem+json": problem}
    assert "Problem" in described["components"]["schemas"]
    assert "HTTPValidationError" not in described["components"]["schemas"]
    assert "ValidationError" not in described["components"]["schemas"]


def test_a_route_with_a_422_of_its_own_keeps_it(document) -> None:
    shop = shop_app()

    @shop.get("/own", responses={422: {"description": "mine"}})
    def own(q: int) -> int:
        return q

    assert document(shop)["paths"]["/own"]["get"]["responses"]["422"]["description"] == "mine"


def test_an_application_that_answers_invalid_requests_itself_declares_its_own(document) -> None:
    shop = shop_app()

    @shop.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        return Response("no", 400)

    reference = {"$ref": "#/components/schemas/HTTPValidationError"}
    described = document(shop)
    assert schema_of(described, "/hello", "422") == {"application/json": {"schema": reference}}
    assert "HTTPValidationError" in described["components"]["schemas"]


@pytest.mark.parametrize(("pipe", "fetches"), [(words, False), (sized, True)])
def test_a_pipeline_that_takes_no_file_fetches_no_url(document, pipe, fetches) -> None:
    responses = document(FastAPI(), pipe=pipe)["paths"][f"/{pipe.name}"]["post"]["responses"]
    assert ("424" in responses) == fetches


def test_the_token_is_required_in_addition_to_what_a_route_requires(document) -> None:
    shop, login = shop_app(), OAuth2PasswordBearer(tokenUrl="token")

    @shop.get("/me")
    def me(token: str = Depends(login)) -> str:
        return token

    described = document(shop, token=TOKEN)
    schemes = described["components"]["securitySchemes"]
    assert described["security"] == [{"bearer": []}]
    assert described["paths"]["/me"]["get"]["security"] == [
        {"OAuth2PasswordBearer": [], "X-Mlkit-Token": []}
    ]
    assert "security" not in described["paths"]["/hello"]["get"]
    assert schemes["X-Mlkit-Token"] == {"type": "apiKey", "in": "header", "name": "X-Mlkit-Token"}
    assert {"bearer", "OAuth2PasswordBearer"} <= schemes.keys()


def test_without_a_token_no_scheme_is_added(document) -> None:
    described = document(shop_app())
    assert "security" not in described
    assert "securitySchemes" not in described["components"]


def test_a_document_of_the_users_own_has_the_pipelines_too(document) -> None:
    shop = shop_app()

    def own() -> dict[str, Any]:
        return get_openapi(title="Mine", version="9", routes=shop.routes)

    shop.openapi = own
    described = document(shop)
    assert described["info"] == {"title": "Mine", "version": "9"}
    assert {"/hello", "/words", "/readyz"} <= described["paths"].keys()
    assert "WordsRequest" in described["components"]["schemas"]


def test_the_document_is_also_where_the_application_has_it(document) -> None:
    shop = shop_app(openapi_url="/api/openapi.json")
    assert document(shop, "/api/openapi.json") == document(shop)
    client = TestClient(asgi(words, fastapi=shop, token=TOKEN))
    code = new_code(TOKEN, "words")
    assert client.get(f"/api/openapi.json?code={code}").status_code == 401


def test_routes_that_a_lifespan_adds_are_in_the_document() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.add_api_route("/late", lambda: "late", methods=["GET"])
        yield

    with TestClient(asgi(words, fastapi=FastAPI(lifespan=lifespan))) as client:
        assert client.get("/late").json() == "late"
        assert "/late" in client.get("/openapi.json").json()["paths"]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
@pytest.mark.parametrize("prefix", ["", "/shop"])
def test_behind_a_proxy_the_document_names_its_path(document, prefix) -> None:
    shop = shop_app(root_path="/shop", servers=[{"url": "https://shop.example"}])

    @shop.get("/url")
    def url(request: Request) -> str:
        return str(request.url_for("url"))

    described = document(shop, f"{prefix}/openapi.json")
    assert [server["url"] for server in described["servers"]] == ["/shop", "https://shop.example"]
    client = TestClient(asgi(words, fastapi=shop, token=TOKEN), follow_redirects=False)
    moved = client.get(f"{prefix}/docs?code={new_code(TOKEN, 'words')}")
    assert (moved.status_code, moved.headers["location"]) == (303, "/shop/docs")
    assert client.get(f"{prefix}/docs").status_code == 200
    answer = client.get(f"{prefix}/url", headers=KEY)
    assert answer.json() == "http://testserver/shop/url"
    assert client.post(f"{prefix}/words", json={"text": "a"}, headers=KEY).json() == ["a"]


@pytest.mark.parametrize("root_path", ["", "/words"])
def test_links_stay_within_the_app_where_it_is_served(root_path) -> None:
    shop = shop_app()

    @shop.get("/url")
    def url(request: Request) -> list[str]:
        return [str(request.url_for("url")), str(request.url)]

    sub = FastAPI()

    @sub.get("/inner")
    def inner(request: Request) -> list[str]:
        return [str(request.url)]

    shop.mount("/sub", sub)
    app = asgi(words, fastapi=shop)
    # Serve passes the full path, and where the app is served.
    client = TestClient(app, root_path=root_path, follow_redirects=False)
    for path in ("/url", "/sub/inner"):
        address = f"http://testserver{root_path}{path}"
        assert set(client.get(f"{root_path}{path}").json()) == {address}
    moved = client.get(f"{root_path}/url/")
    assert (moved.status_code, moved.headers["location"]) == (
        307,
        f"http://testserver{root_path}/url",
    )
    assert client.post("/words", json={"text": "a"}).json() == ["a"]
    assert client.get(f"{root_path}/readyz").json()["status"] == "ready"
    assert client.get(f"{root_path}/docs").status_code == 200
    servers = client.get(f"{root_path}/openapi.json").json().get("servers", [])
    assert servers == [{"url": root_path}] * bool(root_path)


def test_the_documentation_opens_with_a_code_where_the_app_is_served() -> None:
    app = asgi(words, fastapi=FastAPI(), token=TOKEN)
    client = TestClient(app, root_path="/words", follow_redirects=False)
    moved = client.get(f"/words/docs?code={new_code(TOKEN, 'words')}")
    assert (moved.status_code, moved.headers["location"]) == (303, "/words/docs")
    assert client.get("/words/docs").status_code == 200
    assert client.get("/words/words").status_code == 401


def test_pages_of_the_documentation_are_mlkits() -> None:
    shop = FastAPI(docs_url="/pages", redoc_url="/redoc")
    client = TestClient(asgi(words, fastapi=shop))
    statuses = [client.get(path).status_code for path in ("/docs", "/pages", "/redoc")]
    assert statuses == [200, 404, 404]
