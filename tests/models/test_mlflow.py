"""MLflow model folders: what is exported comes back and runs in MLflow; no pickle is read."""

import json
import pickle

import numpy as np
import onnx
import openvino
import pytest
import torch
import yaml
from openvino import opset13 as ops
from torch import nn

from mlkit import models
from mlkit.errors import DefinitionError, InputError, MlkitError
from mlkit.models.mlflow import _load_pyfunc

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
PAIR = {"input_0": X, "input_1": 3 * X}


class Gap(nn.Module):
    """Two inputs, and two results with names."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"difference": a - b, "sum": a + b}


class Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, :2], x[:, 2:]


def matrix() -> openvino.Model:
    x = ops.parameter([-1, 4], np.float32)
    return openvino.Model([ops.matmul(x, np.eye(4, 3, dtype=np.float32), False, False)], [x])


def onnx_file(path, *, names="xy", weights_beside=False, shape=("n", 4)):
    """A file of a model that multiplies its input by two."""
    specs = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in names]
    two = onnx.numpy_helper.from_array(np.full((1, 4), 2, np.float32), "two")
    node = onnx.helper.make_node("Mul", [names[0], "two"], [names[1]])
    graph = onnx.helper.make_graph([node], "g", specs[:1], specs[1:], [two])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    options = {"save_as_external_data": True, "size_threshold": 0} if weights_beside else {}
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path, **options)
    return path


def folder_of(path, flavors, **more):
    """A folder as MLflow writes it."""
    path.mkdir(exist_ok=True)
    (path / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, **more}))
    return path


MODELS = {
    "safetensors": lambda: models.save(
        nn.Linear(4, 3),
        "net",
        example=X,
        kwargs={"in_features": 4, "out_features": 3},
        labels=["a", "b", "c"],
        metrics={"accuracy": 0.5},
    ),
    "preprocessing": lambda: models.save(
        Halves(), "net", example=X, preprocess=models.Preprocess(mean=1, channels_first=False)
    ),
    "several inputs": lambda: models.save(Gap(), "net", example=(X, X)),
    "openvino": lambda: models.save(matrix(), "net", example=X),
}


def saved(kind, tmp_path) -> models.Artefact:
    if kind == "onnx":
        return models.save(onnx_file(tmp_path / "files" / "m.onnx"), "net", example=X)
    return MODELS[kind]()


def results(model, kind) -> list[np.ndarray]:
    outputs = model(*PAIR.values()) if kind == "several inputs" else model(X)
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize("kind", [*MODELS, "onnx"])
def test_an_exported_model_comes_back_as_it_was(store, tmp_path, kind) -> None:
    artefact = saved(kind, tmp_path)
    folder = models.export_mlflow("net", tmp_path / "out" / "net")
    back = models.import_mlflow(folder, "again", store=tmp_path / "other")
    assert (back.id, back.key) == ("again:v1", artefact.key)
    assert (back.labels, back.metrics) == (artefact.labels, artefact.metrics)
    for expected, result in zip(results(artefact, kind), results(back, kind), strict=True):
        assert np.array_equal(expected, result)
    names = {file.name for file in (tmp_path / "other/again/v1").iterdir()}
    assert names == {"manifest.json", *artefact.manifest.files}


@pytest.mark.parametrize("kind", [*MODELS, "onnx"])
def test_the_folder_says_how_mlflow_runs_it(store, tmp_path, kind) -> None:
    artefact = saved(kind, tmp_path)
    folder = models.export_mlflow("net", tmp_path / "net")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = json.loads(described["signature"]["inputs"])
    assert [spec["tensor-spec"] for spec in inputs] == [
        {"dtype": "float32", "shape": [-1, 4]} for _ in artefact.inputs
    ]
    assert ["name" in spec for spec in inputs] == [len(inputs) > 1] * len(inputs)
    assert described["metadata"]["labels"] == list(artefact.labels)
    function = described["flavors"]["python_function"]
    own = function["loader_module"] != "mlflow.onnx"
    assert own == ("onnx" not in described["flavors"]) == (kind != "onnx")
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("mlkit") for line in requirements) == own
    conda = yaml.safe_load((folder / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": requirements}
    assert yaml.safe_load((folder / "python_env.yaml").read_text())["python"]


@pytest.mark.parametrize("kind", MODELS)
def test_the_loader_that_mlflow_calls_gives_the_same_results(store, tmp_path, kind) -> None:
    artefact = saved(kind, tmp_path)
    function = _load_pyfunc(str(models.export_mlflow("net", tmp_path / "net")))
    output = function.predict(PAIR if kind == "several inputs" else X)
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    for expected, result in zip(results(artefact, kind), outputs, strict=True):
        assert np.array_equal(expected, result)


@pytest.mark.parametrize("kind", [*MODELS, "onnx"])
def test_mlflow_itself_runs_the_folder(store, tmp_path, kind) -> None:
    mlflow = pytest.importorskip("mlflow")
    artefact = saved(kind, tmp_path)
    function = mlflow.pyfunc.load_model(str(models.export_mlflow("net", tmp_path / "net")))
    output = function.predict(PAIR if kind == "several inputs" else X)
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    for expected, result in zip(results(artefact, kind), outputs, strict=True):
        assert np.allclose(expected, result, atol=1e-6)
    wrong = {name: a[:, :3] for name, a in PAIR.items()} if kind == "several inputs" else X[:, :3]
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        function.predict(wrong)


@pytest.mark.parametrize("weights_beside", [False, True])
def test_the_onnx_flavor_is_imported_with_its_weights(store, tmp_path, weights_beside) -> None:
    onnx_file(tmp_path / "their" / "model.onnx", weights_beside=weights_beside)
    folder = folder_of(tmp_path / "their", {"onnx": {"data": "model.onnx"}}, model_uuid="a1")
    net = models.import_mlflow(folder, "net", labels=["a", "b", "c", "d"], metrics={"f1": 0.5})
    assert np.array_equal(net(X), 2 * X)
    assert np.array_equal(net(X[:1]), 2 * X[:1])
    assert (net.labels, net.metrics) == (("a", "b", "c", "d"), {"f1": 0.5})
    assert net.manifest.provenance["mlflow"] == {"model_uuid": "a1"}
    assert models.import_mlflow(folder, "net", labels=net.labels, metrics=net.metrics).id == net.id


def test_axes_of_an_onnx_model_that_are_not_free_stay_fixed(store, tmp_path) -> None:
    onnx_file(tmp_path / "their" / "model.onnx", shape=(2, 4))
    net = models.import_mlflow(folder_of(tmp_path / "their", {"onnx": {"data": "model.onnx"}}), "n")
    assert net.inputs == (models.ArraySpec("float32", (2, 4)),)
    assert np.array_equal(net(X), 2 * X)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was read",))


PICKLES = {
    "pytorch": ({"pytorch": {"model_data": "data"}, "python_function": {}}, "data/model.pth"),
    "sklearn": ({"sklearn": {"pickled_model": "model.pkl"}}, "model.pkl"),
    "a function": ({"python_function": {"python_model": "python_model.pkl"}}, "python_model.pkl"),
    "an onnx flavor": ({"onnx": {"data": "model.pkl"}}, "model.pkl"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_unread_and_the_error_says_what_to_do(store, tmp_path, kind) -> None:
    flavors, name = PICKLES[kind]
    folder = folder_of(tmp_path / "their", flavors)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MlkitError) as caught:
        models.import_mlflow(folder, "net")
    if "onnx" not in flavors:
        assert all(flavor in str(caught.value) for flavor in flavors)
        assert "mlflow.onnx.save_model" in str(caught.value)
        assert "safetensors" in str(caught.value)
    assert models.list().empty


def tampered(folder) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")


DAMAGES = {
    "no folder": (lambda f: f.rename(f.with_name("moved")), "no MLflow model"),
    "no YAML": (lambda f: (f / "MLmodel").write_text("flavors: ["), "not YAML"),
    "an object": (
        lambda f: (f / "MLmodel").write_text("flavors: !!python/object/apply:os.getcwd []"),
        "not YAML",
    ),
    "a list": (lambda f: (f / "MLmodel").write_text("[]"), "no flavors"),
    "no dict": (lambda f: (f / "MLmodel").write_text("flavors: {onnx: 3}"), "no flavors"),
    "a file of another folder": (
        lambda f: folder_of(f, {"onnx": {"data": "../secret.onnx"}}),
        r"no such file in the folder(.|\n)*secret",
    ),
    "no file": (lambda f: folder_of(f, {"onnx": {}}), "no such file in the folder"),
    "other bytes": (tampered, "has changed since it was saved"),
    "a missing file": (lambda f: (f / "model.safetensors").unlink(), "the file is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_and_leaves_nothing(store, tmp_path, damage) -> None:
    saved("safetensors", tmp_path)
    folder = models.export_mlflow("net", tmp_path / "net")
    (tmp_path / "secret.onnx").write_bytes(b"")
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(MlkitError, match=message):
        models.import_mlflow(folder, "copy")
    assert list(models.list().index) == ["net:v1"]
    assert not (store / "copy").exists()


def test_what_mlflow_could_not_load_is_not_exported(store, tmp_path) -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)

    models.save(Net(), "net", example=X)
    with pytest.raises(DefinitionError, match="defined in a notebook"):
        models.export_mlflow("net", tmp_path / "net")
    with pytest.raises(InputError, match="no such model"):
        models.export_mlflow("gone", tmp_path / "net")
    saved("safetensors", tmp_path)
    tampered(store / "net" / "v2")
    with pytest.raises(MlkitError, match="has changed since it was saved"):
        models.export_mlflow("net", tmp_path / "net")
    assert not list(tmp_path.glob("*net*"))


def test_a_folder_that_exists_is_left_alone(store, tmp_path) -> None:
    saved("safetensors", tmp_path)
    (tmp_path / "net").mkdir()
    with pytest.raises(DefinitionError, match="exists already"):
        models.export_mlflow("net", tmp_path / "net")
