"""The document that a pipeline's types make: valid, in its own words, and kept to."""

import io
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import pytest
import schemathesis
from fastapi import Depends, FastAPI
from openapi_spec_validator import validate
from PIL import Image as Pictures
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse

from benchmarks.contract import fuzz
from mlkit import Image, InputError, pipeline, step
from mlkit.serving import asgi, served


class Size(Enum):
    small = "s"
    large = "l"


class Product(BaseModel):
    name: str = Field(min_length=1, max_length=40)
    price: float = Field(gt=0)
    sizes: list[Size] = []


@dataclass
class Weighed:
    product: str
    grams: int


@step
def weigh(product: Product, unit: Literal["g", "kg"]) -> Weighed:
    if len(product.name) > 30:
        raise InputError("too long a name to be weighed")
    return Weighed(product.name, 1000 if unit == "kg" else 1)


@step
def mean(array: np.ndarray) -> float:
    return float(np.mean(array)) if array.size else 0.0


@step
def count(frame: pd.DataFrame) -> int:
    return len(frame)


@step
def brightness(image: Image) -> float:
    return float(image.pixels.mean())


@step
def length(data: bytes, twice: bool) -> int:
    return len(data) * (2 if twice else 1)


@pipeline
def weighing(product: Product, unit: Literal["g", "kg"] = "g") -> Weighed:
    """Weigh a product."""
    return weigh(product, unit)


@pipeline
def averaging(array: np.ndarray) -> float:
    return mean(array)


@pipeline
def counting(frame: pd.DataFrame) -> int:
    return count(frame)


@pipeline
def lighting(image: Image) -> float:
    return brightness(image)


@pipeline
def measuring(data: bytes, twice: bool = False) -> int:
    return length(data, twice)


ALL = (weighing, averaging, counting, lighting, measuring)


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Pictures.new("RGB", (4, 3), (9, 8, 7)).save(file, "JPEG")
    return file.getvalue()


def document(pipe, **options):
    return schemathesis.openapi.from_asgi("/openapi.json", asgi(pipe, **options))


@pytest.mark.parametrize("pipe", ALL, ids=lambda pipe: pipe.name)
def test_the_document_is_valid_and_is_kept_to(pipe, picture) -> None:
    schema = document(pipe)
    validate(schema.raw_schema)
    # `tests/zoo` asks fifteen pipelines, and `make contract` sends thousands of requests.
    found = fuzz(schema, 20, {}, pictures=[picture])
    assert found.wrong == []
    assert (found.server_errors, found.undeclared, found.not_problems) == (0, 0, 0)
    assert found.cases >= 20
    assert {200, 422} <= found.statuses.keys()


def test_without_the_token_nothing_but_that_is_said() -> None:
    app = asgi(weighing, token="secret")
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", app, headers={"Authorization": "Bearer secret"}
    )
    assert schema.raw_schema["security"] == [{"bearer": []}]
    found = fuzz(schema, 10, {})
    assert found.wrong == []
    assert found.statuses[401] >= 10


def test_what_does_not_keep_to_it_is_found() -> None:
    loose = FastAPI()

    @loose.post("/loose")
    async def answer(product: Product) -> int:
        if product.price > 1:
            raise RuntimeError("dear")
        return 1

    @loose.exception_handler(RuntimeError)
    async def plain(request, error):
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("oh", 500)

    found = fuzz(schemathesis.openapi.from_asgi("/openapi.json", loose), 30, {})
    assert found.server_errors > 0
    assert found.undeclared >= found.server_errors
    assert found.not_problems >= found.server_errors
    assert "POST /loose: 500, 500, not declared, an error as text/plain" in found.wrong[0]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (JSONResponse("1"), "/loose: 200, its body"),
        (HTMLResponse("1"), "/loose: 200, text/html is not declared"),
    ],
)
def test_an_answer_in_another_form_than_declared_is_found(response, said) -> None:
    loose = FastAPI()

    @loose.post("/loose", response_model=int)
    async def answer(product: Product):
        return response

    findings = fuzz(schemathesis.openapi.from_asgi("/openapi.json", loose), 20, {})
    assert findings.other_forms > 0
    assert any(said in line for line in findings.wrong)


def test_it_speaks_in_the_words_of_the_docstring() -> None:
    @pipeline
    def talk(
        text: str,
        times: Annotated[int, Field(ge=1, description="How often.", examples=[3])] = 1,
        data: bytes = b"",
    ) -> str:
        """Say it again.

        And again.

        Args:
            text: what to
                say.
            times: not this.
            data: what comes with it.

        Returns:
            All of it.
        """
        return again(text, times)

    @step
    def again(text: str, times: int) -> str:
        return text * times

    raw = document(talk).raw_schema
    said = raw["paths"]["/talk"]["post"]
    assert said["summary"] == "Say it again."
    assert said["description"] == "Say it again.\n\nAnd again."
    assert said["responses"]["200"]["description"] == "All of it."
    fields = raw["components"]["schemas"]["TalkRequest"]["properties"]
    assert fields["text"]["description"] == "what to say."
    assert fields["times"]["description"] == "How often."
    assert fields["times"]["examples"] == [3]
    assert fields["data"]["description"].startswith("what comes with it: ")
    assert {"401", "413", "415", "422", "424", "500", "503", "504"} <= said["responses"].keys()


def test_an_application_of_ones_own_has_a_valid_document_too() -> None:
    shop = FastAPI(title="Shop", version="7")

    @shop.get("/products/{sku}/weight")
    async def weight(sku: str, weighing=Depends(served(weighing))) -> Weighed:
        return await weighing({"name": sku, "price": 1.0})

    schema = document(weighing, fastapi=shop)
    validate(schema.raw_schema)
    assert {"/products/{sku}/weight", "/weighing"} <= schema.raw_schema["paths"].keys()
    found = fuzz(schema, 20, {})
    # FastAPI declares its own form of a 422, and the status is declared all the same.
    assert (found.server_errors, found.undeclared, found.not_problems) == (0, 0, 0)
