"""Clients that generators make of `/openapi.json`, used; each is skipped without its generator."""

import json
import os
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path

import httpx2
import pytest
from pydantic import BaseModel, Field

from mlkit import Image, pipeline, step
from mlkit.serving import asgi

TOKEN = "t0ken"


class Kind(Enum):
    hat = "hat"
    shoe = "shoe"


class Part(BaseModel):
    kind: Kind
    grams: float | None = None


class Order(BaseModel):
    name: str = Field(min_length=1)
    count: int = 1
    parts: list[Part] = []


class Priced(BaseModel):
    euros: float
    parts: list[Part]


@step
def cost(order: Order, picture: Image | None, fast: bool) -> Priced:
    return Priced(euros=order.count * (2 if fast else 1), parts=order.parts)


@pipeline
def price(order: Order, picture: Image | None = None, fast: bool = False) -> Priced:
    """What does it cost?"""
    return cost(order, picture, fast)


@pytest.fixture(scope="module")
def url(listen) -> str:
    return listen(asgi(price, token=TOKEN))


@pytest.fixture(scope="module")
def document(url, tmp_path_factory) -> Path:
    """The application's OpenAPI document, as a file."""
    file = tmp_path_factory.mktemp("openapi") / "openapi.json"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(headers=headers | {"Connection": "close"}) as client:
        file.write_text(client.get(f"{url}/openapi.json").text)
    return file


def test_a_client_in_python(url: str, document: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("openapi_python_client")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    paths = ["--path", str(document), "--output-path", str(tmp_path / "price_client")]
    subprocess.run([*command, *paths], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    from price_client import AuthenticatedClient, models
    from price_client.api.default import price as call

    client = AuthenticatedClient(base_url=url, token=TOKEN)
    part = models.Part(kind=models.Kind.HAT, grams=80.5)
    order = models.Order(name="hat", count=3, parts=[part])
    priced = call.sync(client=client, body=models.PriceRequest(order=order, fast=True))
    assert (priced.euros, priced.parts) == (6, [part])
    refused = call.sync(client=client, body=models.PriceRequest(order=models.Order(name="")))
    assert (refused.status, refused.detail) == (
        422,
        "order.name: String should have at least 1 character",
    )


TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { paths } from "./openapi.js";

type Media = "application/json" | "application/problem+json";
const client = createClient<paths, Media>({
  baseUrl: process.argv[2],
  headers: { Authorization: "Bearer t0ken" },
});
const part = { kind: "hat" as const, grams: 80.5 };
const order = { name: "hat", count: 3, parts: [part] };
const good = await client.POST("/price", { body: { order, fast: true } });
const euros: number | null | undefined = good.data?.euros;
const bad = await client.POST("/price", { body: { order: { ...order, name: "" }, fast: false } });
const status: number | undefined = bad.error?.status;
console.log(JSON.stringify([euros, good.data?.parts, status, bad.error?.detail]));
"""
OPTIONS = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"]


def test_a_client_in_typescript(url: str, document: Path, tmp_path: Path) -> None:
    modules = Path(os.environ.get("NODE_PATH", "node_modules")).absolute()
    needed = ("openapi-typescript", "openapi-fetch", "typescript", "@types/node")
    if not shutil.which("node") or not all((modules / name).is_dir() for name in needed):
        pytest.skip(f"NODE_PATH has no {', '.join(needed)}")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "use.ts").write_text(TYPESCRIPT)

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            ["node", *command.split(), *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    generate = "node_modules/openapi-typescript/bin/cli.js"
    run(generate, str(document), "--output", "openapi.d.ts")
    run("node_modules/typescript/bin/tsc", *OPTIONS, "use.ts", "openapi.d.ts")
    printed = run("use.js", url)
    part = {"kind": "hat", "grams": 80.5}
    detail = "order.name: String should have at least 1 character"
    assert json.loads(printed) == [6, [part], 422, detail]
