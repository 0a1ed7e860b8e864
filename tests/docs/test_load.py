"""The Python of docs/load.md runs; its load tests are made short."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mlkit.load
from mlkit.load import LoadResult, SoakResult


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_page_runs_from_top_to_bottom(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    tested = mlkit.load.load_test

    def short(*args: Any, duration_s: float = 0, **options: Any) -> LoadResult:
        return tested(*args, duration_s=0.2, warmup_s=0.1, progress=False, **options)

    monkeypatch.setattr(mlkit.load, "load_test", short)
    monkeypatch.setattr(mlkit.load, "soak", partial(mlkit.load.soak, interval_s=1))
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs" / "load.md").read_text().replace("timeout=5", "timeout=2")
    photos = [bytes([k]) * 100 for k in range(20)]
    names: dict[str, Any] = {
        "app": f"{url}/tag",
        "search": f"{url}/search",
        "photos": photos,
        "views": range(20),
    }
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        exec(compile(snippet, f"<snippet {number}>", "exec", dont_inherit=True), names)
    assert {path.name for path in tmp_path.glob("*.hgrm")} == {"tag.hgrm", "soak.hgrm"}
    assert isinstance(names["result"], SoakResult)
    assert names["from_a_log"].times(1).tolist() == [0, 0.125]
    assert names["working_day"].length_s is None
    assert len(names["runs"]()) == 5
