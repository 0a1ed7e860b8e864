"""What is exported answers as the notebook does, in a fresh process and without it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from ray.serve.schema import ServeDeploySchema

from mlkit.cli import main
from mlkit.errors import ExportError
from mlkit.export import Verification, export, parity, verify
from mlkit.tagging import tag
from tests.export.kuberay import RayService
from tests.zoo import classes, models, scalars

Notebook = Callable[..., dict[str, Any]]


def cells_of(argument: str, *sources: Any, imports: str = "", body: str = "return x") -> list[str]:
    """Cells with a pipeline of one step, which returns its argument."""
    return [
        "import dataclasses\nimport datetime as dt\nimport decimal\nimport enum\nimport uuid\n"
        "from typing import Annotated, Any, Generic, Literal, TypeVar\n\n"
        "import numpy as np\nimport pandas as pd\nimport pydantic as p\n\n"
        f"from mlkit import Image, Rows, batched_step, pipeline, step\n{imports}",
        *(source if isinstance(source, str) else inspect.getsource(source) for source in sources),
        f"@step\ndef same(x: {argument}) -> {argument}:\n    {body}",
        f"@pipeline\ndef echo(x: {argument}) -> {argument}:\n    return same(x)",
    ]


ZOO: dict[str, tuple[list[str], str]] = {
    "scalars": (
        cells_of("dict[uuid.UUID, decimal.Decimal]"),
        "[{uuid.UUID(int=7): decimal.Decimal('1.10')}]",
    ),
    "enum-keys": (cells_of("dict[Color, int]", scalars.Color), "[{Color.red: 1}]"),
    "dataclass": (cells_of("list[Point]", classes.Point), "[[Point(1, 2)]]"),
    "computed-field": (cells_of("Computed", models.Computed), "[Computed(side=0.1)]"),
    "generic-model": (
        cells_of("Page[dt.date]", 'T = TypeVar("T")', models.Page),
        "[Page[dt.date](items=[dt.date(2026, 1, 2)], total=1)]",
    ),
    "discriminated": (
        cells_of(
            "Owner",
            models.Cat,
            models.Dog,
            models.Fish,
            'Pet = Annotated[Cat | Dog, p.Field(discriminator="kind")]',
            'Animal = Annotated[Pet | Fish, p.Field(discriminator="kind")]',
            models.Owner,
        ),
        "[Owner(pet=Dog(breed='collie'), pets=[Fish(salt=True)])]",
    ),
    "array": (
        cells_of("np.ndarray", "SCALE = np.random.rand()", body="return x * SCALE"),
        "[np.arange(6, dtype=np.float32).reshape(2, 3)]",
    ),
    "table": (
        cells_of("pd.DataFrame", body="return x.assign(b=1.5)"),
        "[pd.DataFrame({'a': [1, 2]})]",
    ),
    "picture": (cells_of("Image"), "[Image.open(np.zeros((2, 3, 3), np.uint8))]"),
    "stream": (
        [
            "from collections.abc import Iterator\nfrom mlkit import pipeline, step",
            "@step\ndef count(n: int) -> Iterator[float]:\n    yield from [n / 3, 0.1]",
            "@pipeline\ndef echo(n: int) -> Iterator[float]:\n    return count(n)",
        ],
        "[4]",
    ),
}


REPLAY = """
import json, sys
from pathlib import Path
from mlkit.export.replay import replay

reports = {}
for folder in map(Path, sys.argv[1:]):
    sys.path.insert(0, str(folder))
    reports[folder.name] = replay(folder, "echo:echo")
    sys.path.pop(0)
    del sys.modules["echo"]
print(json.dumps(reports))
"""


@pytest.mark.timeout(300)
def test_types_of_all_kinds_are_answered_equally(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"ways": {}, "modules": [], "has_cache": False}
    monkeypatch.setattr(parity, "replayed", lambda *_: report)
    for name, (cells, examples) in ZOO.items():
        namespace = notebook(*cells)
        inputs = eval(examples, dict(namespace))
        assert export(namespace["echo"], tmp_path / name, examples=inputs).golden == 1
    folders = [str(tmp_path / name) for name in ZOO]
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, *folders],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    equal = {"module": {"1": None}, "application": {"1": None}}
    assert json.loads(done.stdout) == dict.fromkeys(ZOO, equal)


SPECIES = """
import numpy as np
from pydantic import BaseModel
from sklearn.linear_model import LogisticRegression

from helpers import NAMES
from mlkit import batched_step, pipeline, resource

rng = np.random.default_rng(0)
x = rng.normal(size=(90, 2))
clf = LogisticRegression().fit(x, np.digitize(x[:, 0], [-0.5, 0.5]))


def read_offset():
    with open("offset.txt") as file:
        return float(file.read())


class Species(BaseModel):
    name: str
    probability: float


@batched_step(max_batch_size=32, num_cpus=0.5)
def identify(
    rows: list[list[float]], *, offset: float = resource(read_offset, files=["offset.txt"])
) -> list[Species]:
    from helpers import largest

    return [
        Species(name=NAMES[largest(row)], probability=max(row))
        for row in clf.predict_proba(np.array(rows) + offset)
    ]


@pipeline
def species(row: list[float]) -> Species:
    '''Which one is it?'''
    return identify(row)


unseen = [0.1, 0.2]
species(unseen)
species([1.0, 2.0])
"""


@pytest.fixture
def species(notebook: Notebook, tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "notebooks"
    (folder / "helpers.py").write_text(
        'NAMES = ["a", "b", "c"]\n\n\ndef largest(row):\n    return int(row.argmax())\n'
    )
    (folder / "offset.txt").write_text("0.25")
    yield notebook(SPECIES)["species"]
    sys.modules.pop("helpers", None)


@pytest.mark.timeout(300)
def test_the_folder_has_all_that_a_pipeline_needs(
    species: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export(species, tmp_path / "build" / "species")
    folder = exported.folder
    assert exported.golden == 2  # the calls in the cells
    assert "fit(" not in exported.source
    assert 'clf = artefacts["clf"]' in exported.source
    assert (folder / "helpers.py").is_file()
    assert (folder / "offset.txt").read_text() == "0.25"
    pins = (folder / "requirements.txt").read_text()
    for name in ("numpy==", "scikit-learn==", "pydantic==", "ray[serve]==", "/mlkit-"):
        assert name in pins
    assert "pytest" not in pins
    check_manifests(folder)
    changed = folder / "helpers.py"
    changed.write_text(changed.read_text().replace('"c"', '"d"').replace('"b"', '"d"'))
    outcome = verify(folder)
    assert not outcome.equal
    assert "request 1: it returned" in str(outcome)
    assert set(outcome.differences) == {"module", "application"}
    report = {"ways": {}, "modules": [], "has_cache": False}
    monkeypatch.setattr(parity, "replayed", lambda *_: report)
    export(species, folder)  # a former export is replaced
    assert '"d"' not in changed.read_text()


def check_manifests(folder: Path) -> None:
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(config)
    (application,) = schema.applications
    assert application.import_path == "serve_app:app"
    assert application.deployments[0].ray_actor_options.num_cpus == 0.5
    service = RayService.model_validate(yaml.safe_load((folder / "rayservice.yaml").read_text()))
    assert yaml.safe_load(service.spec.serveConfigV2) == config
    docker = (folder / "Dockerfile").read_text()
    assert docker.startswith("FROM rayproject/ray:")
    assert "golden" in (folder / "README.md").read_text()


def test_all_problems_are_listed_by_cell_and_line(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "model.txt").touch()
    namespace = notebook(
        "from mlkit import pipeline, resource, step\nlines = iter([1])",
        f"path = {str(tmp_path)!r}",
        f"""
        @step
        def f(x: int, *, model: str = resource(lambda: path, files=[{"../model.txt"!r}])) -> int:
            return next(lines)


        @pipeline
        def p(x: int) -> int:
            return f(x)
        """,
    )
    with pytest.raises(ExportError) as error:
        export(namespace["p"], tmp_path / "out")
    lines = str(error.value).splitlines()
    assert "3 problems" in lines[0]
    assert lines[1].startswith("  - cell 1, line 2: 'lines' is a builtins.list_iterator")
    assert lines[2].startswith("  - cell 2, line 1: ")
    assert "reads '../model.txt'" in lines[3]
    assert all("→" in line for line in lines[1:])
    assert not (tmp_path / "out").exists()


SHOP = """
from fastapi import Depends, FastAPI

from mlkit import pipeline, step
from mlkit.serving import served


@step
def halve(x: float) -> float:
    return x / 2


@pipeline
def half(x: float) -> float:
    return halve(x)


shop = FastAPI()


@shop.get("/quarter")
async def quarter(x: float, half=Depends(served(half))) -> float:
    return await half(await half(x))
"""


def test_the_application_around_a_pipeline_is_exported_with_it(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays = []
    report = {"ways": {}, "modules": [], "has_cache": False}
    monkeypatch.setattr(parity, "replayed", lambda *given: replays.append(given) or report)
    namespace = notebook(SHOP)
    exported = export(namespace["half"], tmp_path / "x", examples=[1], fastapi=namespace["shop"])
    assert [given[1:] for given in replays] == [("half:half", "shop")]
    assert '__all__ = ["half", "shop"]' in exported.source
    assert '@shop.get("/quarter")' in exported.source
    assert ', fastapi="shop")' in (exported.folder / "serve_app.py").read_text()
    assert json.loads((exported.folder / "export.json").read_text())["fastapi"] == "shop"


def test_an_application_without_a_variable_is_refused(notebook: Notebook, tmp_path: Path) -> None:
    half = notebook(SHOP)["half"]
    with pytest.raises(ExportError, match="no variable beside the pipeline"):
        export(half, tmp_path / "x", examples=[1], fastapi=FastAPI())


def test_answers_that_differ_are_not_exported(notebook: Notebook, tmp_path: Path) -> None:
    namespace = notebook(
        "import os\nfrom mlkit import pipeline, step",
        "@step\ndef f(x: int) -> int:\n    return os.getpid()",
        "@pipeline\ndef p(x: int) -> int:\n    return f(x)",
    )
    with pytest.raises(ExportError, match="request 1, module: it returned"):
        export(namespace["p"], tmp_path / "out", examples=[1])
    assert not (tmp_path / "out").exists()


def test_without_an_example_there_is_no_export(notebook: Notebook, tmp_path: Path) -> None:
    namespace = notebook(
        "from mlkit import pipeline, step",
        "@step\ndef f(x: str) -> int:\n    return int(x)",
        "@pipeline\ndef p(x: str) -> int:\n    return f(x)",
    )
    with pytest.raises(ExportError, match="no example for a golden request"):
        export(namespace["p"], tmp_path / "out")


def test_what_compiles_a_cached_model_is_required_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(
        folder: Path, target: str, fastapi: str | None = None, *, cache: str | None = None
    ) -> dict[str, Any]:
        compiler = [] if cache is None else ["torch"]
        return {"ways": {}, "modules": ["openvino", *compiler], "has_cache": True}

    monkeypatch.setattr(parity, "replayed", replayed)
    assert parity.check_parity(tmp_path, "tag:tag") == {"openvino", "torch"}


def test_a_verification_says_what_differs(tmp_path: Path) -> None:
    outcome = Verification(tmp_path, {"module": {"1": None, "2": "it returned 1, not 2"}})
    assert not outcome.equal
    assert str(outcome) == "module       1 of 2 equal\n  request 2: it returned 1, not 2"


@pytest.mark.timeout(300)  # it loads the models, here and in a fresh process
def test_an_installed_pipeline_is_imported(repository: Path, tmp_path: Path) -> None:
    photo = repository / "data" / "catalogue" / "blue-hoodie-1.jpg"
    exported = export(tag, tmp_path / "tagger", examples=[{"image": photo, "title": "Hoodie"}])
    assert exported.module == "tag"
    assert exported.source.endswith('from mlkit.tagging import tag\n\n__all__ = ["tag"]\n')


@pytest.mark.timeout(300)
def test_a_pipeline_of_a_notebook_is_exported_from_the_shell(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    notebook = "notebooks/01_define.ipynb"
    monkeypatch.chdir(repository)
    assert main(["export", f"{notebook}:specie", str(tmp_path / "x")]) == 1
    assert "'species'" in capsys.readouterr().err
    monkeypatch.chdir(repository)
    assert main(["export", f"{notebook}:species", str(tmp_path / "species")]) == 0
    assert "answered equally" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "species")]) == 0
    assert "application  1 of 1 equal" in capsys.readouterr().out
    details = json.loads((tmp_path / "species" / "export.json").read_text())
    assert details["target"] == "species:species"
