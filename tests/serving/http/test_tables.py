"""DataFrames over HTTP: JSON, CSV, Parquet and Arrow, with rows that a model validates."""

from __future__ import annotations

import io
from typing import Annotated

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from mlkit import Rows, pipeline, step
from mlkit.serving import asgi


class House(BaseModel):
    area: float = Field(gt=0)
    rooms: int | None = None


class Price(BaseModel):
    price: float


Houses = Annotated[pd.DataFrame, Rows(House)]
Prices = Annotated[pd.DataFrame, Rows(Price)]


@step
def estimate(houses: Houses) -> Prices:
    return pd.DataFrame({"price": houses["area"] * 10})


@pipeline
def prices(houses: Houses) -> Prices:
    return estimate(houses)


FRAME = pd.DataFrame({"area": [80.0, 60.0], "rooms": [3, None]})
CSV = FRAME.to_csv(index=False).encode()
BUFFER = io.BytesIO()
FRAME.to_parquet(BUFFER)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(asgi(prices), "http://127.0.0.1")


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"houses": [{"area": 80, "rooms": 3}, {"area": 60}]}},
        {"content": CSV, "headers": {"content-type": "text/csv"}},
        {"content": CSV, "headers": {"content-type": "text/csv; charset=utf-8"}},
        {
            "content": BUFFER.getvalue(),
            "headers": {"content-type": "application/vnd.apache.parquet"},
        },
        {"files": {"houses": ("houses.csv", CSV)}},
        {"files": {"houses": ("houses.parquet", BUFFER.getvalue())}},
    ],
    ids=["JSON", "CSV", "CSV in UTF-8", "Parquet", "CSV in a form", "Parquet in a form"],
)
def test_a_table_may_be_json_or_a_file(client: TestClient, request_: dict) -> None:
    answer = client.post("/prices", **request_)
    assert (answer.status_code, answer.json()) == (200, [{"price": 800.0}, {"price": 600.0}])


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"houses": [{"area": 80}, {"area": -1}]}},
        {"content": b"area,rooms\n80,3\n-1,\n", "headers": {"content-type": "text/csv"}},
        {"files": {"houses": ("houses.csv", b"area\n80\n-1\n")}},
    ],
    ids=["JSON", "CSV", "form"],
)
def test_an_invalid_cell_is_named(client: TestClient, request_: dict) -> None:
    answer = client.post("/prices", **request_)
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", "houses", 1, "area"]]


def test_rows_are_documented(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/prices"]["post"]
    assert {"text/csv", "application/vnd.apache.parquet"} <= operation["requestBody"][
        "content"
    ].keys()
    schemas = document["components"]["schemas"]
    items = schemas["PricesRequest"]["properties"]["houses"]["items"]
    assert schemas[items["$ref"].rpartition("/")[2]]["properties"]["area"]["exclusiveMinimum"] == 0
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["items"] == {"$ref": "#/components/schemas/Price"}
