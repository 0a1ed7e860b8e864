"""The page on which a pipeline can be tried, in a real browser."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from pydantic import BaseModel, Field

from mlkit import Image, pipeline, step
from mlkit.serving import asgi
from mlkit.serving.control.flags import free_port
from mlkit.serving.http.access import new_code
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.curl import curl

pytestmark = pytest.mark.browser

TOKEN = "t0ken"


class Shade(BaseModel):
    name: str
    hex: str


class Product(BaseModel):
    title: str
    width: int
    shades: list[Shade]


@step
def shades(image: Image, top: int) -> list[Shade]:
    return [Shade(name="dark", hex="#101010"), Shade(name="light", hex="#fafafa")][:top]


@step
def combine(image: Image, title: str, found: list[Shade]) -> Product:
    if title == "boom":
        raise ValueError("secret")
    return Product(title=title, width=image.width, shades=found)


@pipeline
def describe(image: Image, title: str = "", top: Annotated[int, Field(ge=1, le=2)] = 2) -> Product:
    "Describe a product."
    return combine(image, title, shades(image, top))


@step
def spell(word: str) -> Iterator[str]:
    yield from word


@pipeline
def spelled(word: str) -> Iterator[str]:
    return spell(word)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Any], str]]:
    """Returns a function: pipeline to the address of its application."""
    running = []

    def start(pipe: Any) -> str:
        port = free_port()
        config = uvicorn.Config(asgi(pipe, token=TOKEN), port=port, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        end = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def open_page(chromium: Any, serve: Callable[[Any], str]) -> Iterator[Callable[..., Any]]:
    """Returns a function: pipeline to its page, and a list of what went wrong in it."""
    contexts = []

    def opened(pipe: Any, **options: Any) -> tuple[Any, list[str]]:
        context = chromium.new_context(**options)
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        hosts: set[str] = set()
        page.hosts = hosts
        page.goto(f"{serve(pipe)}/try?code={new_code(TOKEN, pipe.name, page='try')}")
        return page, wrong

    yield opened
    for context in contexts:
        context.close()


def spills(page: Any) -> list[str]:
    """Elements that are wider than the window."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('main *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg'))
        .map(e => e.outerHTML.slice(0, 80))"""
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_a_product_is_described(
    open_page: Any, repository: Path, pictures: Path, scheme: str, width: int
) -> None:
    page, wrong = open_page(describe, color_scheme=scheme, viewport={"width": width, "height": 900})
    assert "code=" not in page.url
    assert page.inner_text(".state") == "no request yet"
    photo = repository / "data" / "catalogue" / "blue-hoodie-1.jpg"
    page.set_input_files("input[type=file]", photo)
    page.fill("[data-name=title] textarea", "Blue 'Hoodie'")
    page.click("button[type=submit]")
    page.wait_for_selector(".state.done")
    answer = page.inner_text(".result")
    for part in ("Blue 'Hoodie'", "640", "#fafafa"):
        assert part in answer
    assert page.locator(".steps tbody tr").count() == 2
    assert page.locator(".files img").evaluate("(image) => image.naturalWidth") == 640
    assert spills(page) == []
    assert len(page.hosts) == 1
    assert wrong == []
    page.screenshot(path=str(pictures / f"playground-{scheme}-{width}.png"), full_page=True)


def test_the_command_is_that_of_the_notebook(open_page: Any, tmp_path: Path) -> None:
    page, _ = open_page(describe)
    page.fill("[data-name=title] textarea", 'it\'s "red" & $1')
    page.fill("[data-name=top] input", "1")
    shown = page.inner_text(".request pre").replace(" \\\n  ", " ")
    origin = re.sub("/try.*", "", page.url)
    arguments = {"title": 'it\'s "red" & $1', "top": 1}
    expected = curl(Codec(describe.graph), f"{origin}/describe", None, arguments, tmp_path)
    shown = shown.replace('-H "Authorization: Bearer $TOKEN" ', "")
    assert shlex.split(shown) == shlex.split(expected)


def test_an_error_stands_at_its_field(open_page: Any) -> None:
    page, _ = open_page(describe)
    page.fill("[data-name=top] input", "3")
    page.click("button[type=submit]")
    page.wait_for_selector(".state.failed")
    marked = {
        field.get_attribute("data-name"): field.locator(".wrong").inner_text()
        for field in page.locator(".field.invalid").all()
    }
    assert marked == {
        "image": "Field required",
        "top": "Input should be less than or equal to 2",
    }
    page.fill("[data-name=top] input", "2")
    assert page.locator(".field.invalid").count() == 1


def test_a_failed_step_is_named(open_page: Any, repository: Path) -> None:
    page, _ = open_page(describe)
    photo = repository / "data" / "catalogue" / "blue-hoodie-1.jpg"
    page.set_input_files("input[type=file]", photo)
    page.fill("[data-name=title] textarea", "boom")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".state.failed")
    told = page.inner_text(".problem")
    assert "Step combine failed" in told
    assert "secret" not in told


def test_items_are_shown_as_text(open_page: Any) -> None:
    page, wrong = open_page(spelled)
    page.fill("textarea", "<b>hoodie</b>")
    page.click("button[type=submit]")
    page.wait_for_selector(".state.done")
    assert page.inner_text(".said") == "<b>hoodie</b>"
    assert page.inner_text(".state").startswith("13 items in")
    assert wrong == []
