"""The code of the documentation runs as it is written, on the pipeline's application in process."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import mlkit.serving
from mlkit.execute.inputs import signature_of
from mlkit.serving import asgi
from mlkit.serving.kernel.client import Codec
from mlkit.serving.kernel.curl import curl


def section(file: Path, title: str) -> str:
    """The Python code of a section, with lines at their place in the file."""
    lines, inside, code = file.read_text().splitlines(), False, False
    kept = []
    for line in lines:
        if line.startswith("## "):
            inside = line == f"## {title}"
        if line.startswith("```"):
            code = line == "```python"
            kept.append("")
        else:
            kept.append(line if inside and code else "")
    return "\n".join(kept)


class LocalApp:
    """Calls a pipeline as a deployed app does, through its application in this process."""

    def __init__(self, pipe: Any, folder: Path) -> None:
        self.codec, self.folder = Codec(pipe.graph), folder
        self.url = f"http://127.0.0.1/{pipe.name}"
        self.client = TestClient(asgi(pipe), base_url="http://127.0.0.1")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = signature_of(self.codec.graph).bind(*args, **kwargs).arguments
        request = self.codec.request(self.url, None, arguments)
        response = self.client.post(request.url, headers=request.headers, content=request.body)
        response.raise_for_status()
        return self.codec.result(response.content, response.headers["content-type"])

    def curl(self, *args: Any, **kwargs: Any) -> str:
        arguments = signature_of(self.codec.graph).bind(*args, **kwargs).arguments
        return curl(self.codec, self.url, None, arguments, self.folder)


@pytest.fixture
def local_deploy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Has `deploy` serve the pipeline in this process."""
    monkeypatch.setattr(mlkit.serving, "deploy", lambda pipe: LocalApp(pipe, tmp_path))


def test_a_torch_model_is_trained_and_served(
    repository: Path, local_deploy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = repository / "docs" / "bring-your-own.md"
    code = section(file, "A torch model, from training to a served pipeline")
    assert len(re.findall(r"^from mlkit", code, re.MULTILINE)) == 3
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(ast.parse(code), str(file), "exec"), names)
    circle, point = names["circle"], names["Point"]
    assert circle.problems == ()
    assert (circle(point(x=0, y=0)).inside, circle(point(x=1, y=1)).inside) == (True, False)
    assert names["app"](point(x=0, y=0)).inside
    assert "curl" in capsys.readouterr().out
