"""A page of another origin calls an app, with the JavaScript of docs/fastapi.md."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mlkit.serving import asgi
from mlkit.serving.control.flags import free_port

pytestmark = pytest.mark.browser

TOKEN = "t0ken"


class Empty(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server with an empty page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def document(repository: Path) -> str:
    return (repository / "docs" / "fastapi.md").read_text()


@pytest.fixture(scope="module")
def url(document: str, port: int) -> Iterator[str]:
    """Address of the application of that document; it allows pages of ``localhost``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in re.findall(r"```python\n(.*?)```", document, re.DOTALL):
        exec(snippet.replace("https://shop.example", f"http://localhost:{port}"), names)
    own_port = free_port()
    app = asgi(names["tag"], fastapi=names["shop"], token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=own_port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield f"http://127.0.0.1:{own_port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def run(chromium: Any, document: str, url: str, port: int) -> Iterator[Any]:
    """Returns a function: runs the document's JavaScript in a page, and returns a value of it."""
    source = "\n".join(re.findall(r"```javascript\n(.*?)```", document, re.DOTALL))
    page = chromium.new_page()

    def evaluate(value: str, *, host: str = "localhost", source: str = source) -> Any:
        page.goto(f"http://{host}:{port}/")
        script = f"async ([url, token]) => {{ {source}\nreturn {value}; }}"
        return page.evaluate(script, [url, TOKEN])

    yield evaluate
    page.close()


def test_a_page_calls_the_app_and_opens_a_websocket(run: Any) -> None:
    returned = run("[tags, live, socket.protocol]")
    assert returned == [["red", "shoe"], ["red", "shoe"], "bearer"]


def test_a_page_reads_a_refusal(run: Any) -> None:
    assert run("(await fetch(url + '/tags?title=a')).status", source="") == 401


EVENT = "await new Promise((first) => { socket.onopen = socket.onerror = (e) => first(e.type); })"


def test_a_page_of_another_origin_reads_nothing(run: Any) -> None:
    fetched = "await fetch(url + '/tags?title=a').then(() => 'read', (error) => error.message)"
    assert run(fetched, source="", host="127.0.0.1") == "Failed to fetch"
    opened = "const socket = new WebSocket(url.replace('http', 'ws') + '/live', ['bearer', token]);"
    assert run(EVENT, source=opened) == "open"
    assert run(EVENT, source=opened, host="127.0.0.1") == "error"
