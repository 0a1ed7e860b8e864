"""The official SDK's client of the Model Context Protocol, unchanged; skipped without it."""

import asyncio
import base64
import threading
import time

import numpy as np
import pytest
import uvicorn
from pydantic import BaseModel

from mlkit import Image, pipeline, step
from mlkit.serving import asgi
from mlkit.serving.control.flags import free_port

mcp = pytest.importorskip("mcp")
client_of = pytest.importorskip("mcp.client.streamable_http")
httpx2 = pytest.importorskip("httpx2")

TOKEN = "t0ken"


class Label(BaseModel):
    name: str
    width: int
    parts: list["Label"] = []


@step
def judge(image: Image, name: str) -> Label:
    if name == "boom":
        raise ValueError("secret")
    return Label(name=name, width=image.width, parts=[Label(name="part", width=1)])


@pipeline
def label(image: Image, name: str = "hat") -> Label:
    "Label a picture."
    return judge(image, name)


@step
def same(image: Image) -> Image:
    return image


@pipeline
def copied(image: Image) -> Image:
    return same(image)


@pytest.fixture(scope="module")
def picture():
    png = Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()
    return "data:image/png;base64," + base64.b64encode(png).decode()


@pytest.fixture(scope="module")
def address():
    """Returns a function: pipeline to the address of its route."""
    running = []

    def start(pipe):
        port = free_port()
        config = uvicorn.Config(asgi(pipe, token=TOKEN), port=port, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        end = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}/mcp"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def talk(url, conversation, mode, token=TOKEN):
    """Connect a client, and return what a conversation with it does."""

    async def run():
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers) as http:
            transport = client_of.streamable_http_client(url, http_client=http)
            async with mcp.Client(transport, mode=mode) as client:
                return await conversation(client)

    return asyncio.run(run())


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
def test_tools_are_listed_and_called(address, picture, mode) -> None:
    async def conversation(client):
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == ("label", "Label a picture.")
        assert tool.input_schema["required"] == ["image"]
        answer = await client.call_tool("label", {"image": picture, "name": "größe"})
        failed = await client.call_tool("label", {"image": picture, "name": "boom"})
        invalid = await client.call_tool("label", {"image": "no picture"})
        return answer, failed, invalid

    answer, failed, invalid = talk(address(label), conversation, mode)
    assert not answer.is_error
    part = {"name": "part", "width": 1, "parts": []}
    assert answer.structured_content == {"name": "größe", "width": 12, "parts": [part]}
    assert failed.is_error
    assert "step 'judge' failed: ValueError" in failed.content[0].text
    assert "secret" not in failed.content[0].text
    assert invalid.is_error
    assert "image" in invalid.content[0].text


def test_pictures_are_received(address, picture) -> None:
    async def conversation(client):
        return await client.call_tool("copied", {"image": picture})

    (content,) = talk(address(copied), conversation, "auto").content
    assert (content.type, content.mime_type) == ("image", "image/png")
    assert Image.open(base64.b64decode(content.data)).width == 12


def test_unknown_tools_and_wrong_tokens(address, picture) -> None:
    url = address(label)

    async def unknown(client):
        with pytest.raises(mcp.MCPError, match="there is no tool 'other'"):
            await client.call_tool("other", {})

    talk(url, unknown, "legacy")
    with pytest.raises(BaseException):  # noqa: B017 (a group of exceptions)
        talk(url, unknown, "legacy", token="wrong")
