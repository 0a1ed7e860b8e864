"""The OpenAPI document of `asgi` is that of a replica, which is another process."""

import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mlkit.plan import plan
from mlkit.serving import asgi
from mlkit.serving.bundle import pack

TOKEN = "t0ken"

WORDS = """
@step
def split(text: str) -> list[str]:
    return text.split()

@pipeline
def pipe(text: str) -> list[str]:
    "Split a text.\\n\\nAt its spaces.\\n\\nReturns:\\n    the words."
    return split(text)
"""

MODELS = """
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

T = TypeVar("T")

class Size(Enum):
    "How large it is."
    SMALL = "s"
    LARGE = "l"

class Price(BaseModel):
    "What it costs."
    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"amount": 3, "currency": "EUR"}]},
    )
    amount: float = Field(gt=0, examples=[2.5])
    '''In units of the currency.'''
    currency: str = "EUR"
    '''ISO 4217.'''

class Page(BaseModel, Generic[T]):
    items: list[T]

    @computed_field
    @property
    def count(self) -> int:
        "Number of items."
        return len(self.items)

@dataclass
class Shelf:
    "Where it lies."
    row: Annotated[int, Field(description="from the door", examples=[1])] = 1

class Note(TypedDict, total=False):
    text: str

@step
def list_all(price: Price, size: Size, shelf: Shelf, note: Note) -> Page[Price]:
    return Page(items=[price])

@step
def same(page: Page[Price]) -> Page[Price]:
    return page

@pipeline
def pipe(
    price: Price, size: Size = Size.SMALL, shelf: Shelf = Shelf(), note: Note = {}
) -> Page[Price]:
    return same(list_all(price, size, shelf, note))
"""

IMAGES = """
@step
def measure(image: ImageSource, title: str, more: list[bytes]) -> dict[str, int]:
    return {title: len(image)}

@pipeline
def pipe(image: ImageSource, title: str = "", more: list[bytes] = []) -> dict[str, int]:
    return measure(image, title, more)
"""

STREAM = """
from collections.abc import Iterator

@step
def write(text: str) -> Iterator[str]:
    yield from text.split()

@pipeline
def pipe(text: str) -> Iterator[str]:
    return write(text)
"""

SHOP = (
    MODELS
    + """
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Header, HTTPException, Query
from fastapi.security import OAuth2PasswordBearer

from mlkit.serving import served

class Problem(BaseModel):
    "Named like one of mlkit's."
    mine: int

class Filter(BaseModel):
    limit: int = Field(10, description="at most", examples=[5])

class Prices:
    def __init__(self, pipe=Depends(served(pipe)), currency: str = Query("EUR", examples=["EUR"])):
        self.pipe = pipe

shop = FastAPI(
    title="Shop",
    version="7",
    summary="Prices.",
    openapi_tags=[{"name": "prices", "description": "of products"}],
    servers=[{"url": "https://shop.example"}],
    separate_input_output_schemas=False,
)
router = APIRouter(prefix="/v1", tags=["prices"], responses={418: {"model": Problem}})

@router.post("/price", status_code=201, response_model_exclude={"currency"})
async def price(
    price: Price = Body(openapi_examples={"usual": {"value": {"amount": 1}}}),
    prices: Prices = Depends(),
    x_tenant: str = Header("nobody", examples=["me"]),
) -> Page[Price]:
    "Price a product.\\n\\n**Bold.**"
    return await prices.pipe(price)

@router.post("/form")
def form(filter: Filter = Form(examples=[{"limit": 3}])) -> Problem:
    return Problem(mine=filter.limit)

@router.get("/search")
def search(filter: Filter = Query()) -> list[Size]:
    return list(Size)

@shop.get("/me", deprecated=True)
def me(token: str = Depends(OAuth2PasswordBearer(tokenUrl="token"))) -> str:
    return token

@shop.webhooks.post("sold")
def sold(price: Price) -> None: ...

sub = FastAPI(title="Sub")

@sub.get("/hello")
def hello() -> str:
    return "hello"

shop.include_router(router)
shop.mount("/sub", sub)
"""
)

FACTORY = (
    WORDS
    + """
from fastapi import FastAPI

def shop():
    made = FastAPI(title="Made")

    @made.get("/hello")
    def hello(q: int = 3) -> int:
        return q

    return made
"""
)

OWN = (
    WORDS
    + """
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

shop = FastAPI(openapi_url="/api/openapi.json")

@shop.get("/hello")
def hello() -> str:
    return "hello"

shop.openapi = lambda: get_openapi(title="Mine", version="9", routes=shop.routes)
"""
)

NOTEBOOKS = {
    "words": WORDS,
    "models": MODELS,
    "images": IMAGES,
    "a stream": STREAM,
    "an application": SHOP,
    "a factory": FACTORY,
    "a document of its own": OWN,
}

REPLICA = """
import asyncio, json, sys
from pathlib import Path
from types import SimpleNamespace

from fastapi.testclient import TestClient

from mlkit.serving.replica.front import Replica, Shipment, _Switch

async def document(bundle):
    replica = Replica.__new__(Replica)
    runtime = SimpleNamespace(
        push=lambda *part: None,
        handle=lambda *stage: SimpleNamespace(reach=lambda: None),
        fetch=lambda path: Path(path).read_bytes(),
    )
    origin = SimpleNamespace(enter=lambda: None)
    shipment = Shipment(
        app="pipe", origin=origin, logs="/nowhere", token="t0ken", exact_key="k", gatherer="g"
    )
    await replica.__init__(shipment, runtime=runtime)
    config = {"bundle": str(bundle), "limits": {}, "workers": 1, "routes": {}, "sizes": {}}
    config |= {"log_levels": {}, "version": "v1", "state": "v1", "replaced": {}, "trial": None}
    await replica.reconfigure({**config, "check": False})
    client = TestClient(_Switch(replica), headers={"x-mlkit-token": "t0ken"})
    response = await asyncio.to_thread(client.get, "/openapi.json")
    await type(replica).__del__(replica)
    return response.json()

async def main():
    return {path.name: await document(path) for path in Path(sys.argv[1]).iterdir()}

print(json.dumps(asyncio.run(main())))
"""


def notebook_of(name: str) -> dict[str, Any]:
    """The names that the cells of a notebook define."""
    sys.modules["__main__"] = main = ModuleType("__main__")
    names = vars(main)
    exec("from mlkit import *\n", names)
    exec(compile(NOTEBOOKS[name], f"<{name}>", "exec"), names)
    return names


@pytest.fixture(scope="module")
def notebooks():
    """Returns the names of each notebook."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        return {name: SimpleNamespace(**notebook_of(name)) for name in NOTEBOOKS}


@pytest.fixture(scope="module")
def deployed(notebooks, tmp_path_factory):
    """The document of a replica by notebook."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, notebook in notebooks.items():
        shop = getattr(notebook, "shop", None)
        (folder / name).write_bytes(pack(plan(notebook.pipe), shop, notebook.pipe)[0].data)
    done = subprocess.run(
        [sys.executable, "-c", REPLICA, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_document_in_this_process_is_that_of_a_replica(notebooks, deployed, name) -> None:
    notebook = notebooks[name]
    app = asgi(notebook.pipe, fastapi=getattr(notebook, "shop", None), token=TOKEN)
    with TestClient(app, headers={"x-mlkit-token": TOKEN}) as client:
        here = client.get("/openapi.json").json()
    assert here == deployed[name]
    assert list(here["paths"]) == list(deployed[name]["paths"])
    assert "/pipe" in here["paths"]
