"""Models on disk: they come back as they were saved, and nothing else does."""

import json
import threading

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops
from torch import nn

from mlkit import batched_step, models, pipeline, resource
from mlkit.define.fingerprint import fingerprint
from mlkit.define.resource import Resource
from mlkit.define.shipping import dumps, loads
from mlkit.errors import DefinitionError, InputError, MlkitError
from mlkit.models import Preprocess
from mlkit.models.artefact import MANIFEST

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def linear(out: int = 3) -> nn.Module:
    return nn.Linear(4, out)


def save(module=None, name="net", version=None, **options):
    options = {"example": X, "builder": linear, **options}
    return models.save(module or linear(), name, version, **options)


def product() -> openvino.Model:
    x = ops.parameter([-1, 4], np.float32)
    return openvino.Model([ops.matmul(x, np.eye(4, 3, dtype=np.float32), False, False)], [x])


def test_a_torch_module_comes_back(store) -> None:
    module = linear()
    saved = save(module, labels=["a", "b", "c"], metrics={"accuracy": 0.9}, provenance={"run": 7})
    loaded = models.load("net:v1")
    assert np.allclose(loaded(X), module(torch.from_numpy(X)).detach().numpy(), atol=1e-6)
    assert loaded.labels == ("a", "b", "c")
    assert loaded.metrics == {"accuracy": 0.9}
    assert loaded.manifest.provenance["run"] == 7
    assert (saved.id, saved.key) == (loaded.id, loaded.key) == ("net:v1", saved.key)
    assert loaded.nbytes == (store / "net/v1/model.safetensors").stat().st_size
    files = {file.name for file in store.rglob("*") if file.is_file()}
    assert files == {"manifest.json", "model.safetensors"}


def test_a_class_of_an_installed_package_is_its_own_builder(store) -> None:
    kwargs = {"in_features": 4, "out_features": 3}
    models.save(nn.Linear(4, 3), "net", example=X, kwargs=kwargs)
    assert models.load("net")(X).shape == (2, 3)


def test_preprocessing_is_part_of_the_model(store) -> None:
    options = {"preprocess": Preprocess(mean=1, scale=(1, 2, 3, 4), channels_first=False)}
    module = linear()
    loaded = save(module, **options)
    expected = module((torch.from_numpy(X) - 1) / torch.tensor([1.0, 2, 3, 4]))
    assert np.allclose(loaded(X), expected.detach().numpy(), atol=1e-6)


def test_an_openvino_model_comes_back(store) -> None:
    models.save(product(), "net", example=X)
    for _ in range(2):  # compiled, and from the cache
        assert np.allclose(models.load("net")(X), X[:, :3])
    assert models.load("net")(X[:1]).shape == (1, 3)


def test_it_does_so_without_a_cache_that_can_be_written(store, tmp_path, monkeypatch) -> None:
    models.save(product(), "net", example=X)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=f"cannot cache .*{tmp_path}/file"):
        model = models.load("net")
    assert np.allclose(model(X), X[:, :3])


def test_an_onnx_file_comes_back(store, tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    specs = [onnx.helper.make_tensor_value_info(n, 1, ["n", 4]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])], "g", specs[:1], specs[1:]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "n.onnx")
    models.save(tmp_path / "n.onnx", "net", example=X)
    assert np.array_equal(models.load("net")(X[:1]), -X[:1])


def test_saving_leaves_the_module_as_it_was(store) -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).train()
    module[1].eval()
    save(module, builder=lambda: nn.Sequential(nn.Dropout(), nn.Linear(4, 3)))
    assert [inner.training for inner in module.modules()] == [True, True, False]


def test_versions_count_up_and_the_same_content_is_the_same_version(store) -> None:
    first, second = linear(), linear()
    ids = [save(module).id for module in (first, first, second)]
    assert ids == ["net:v1", "net:v1", "net:v2"]
    for _ in range(9):
        last = save()
    assert last.id == models.load("net").id == "net:v11"
    with pytest.raises(DefinitionError, match="exists already"):
        save(version="v2")
    assert models.load("net:v2").key != last.key


def test_savers_at_the_same_time_get_versions_of_their_own(store) -> None:
    ids = []
    threads = [threading.Thread(target=lambda: ids.append(save().id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == ["net:v1", "net:v2", "net:v3", "net:v4"]


def test_an_alias_names_a_version_until_it_is_moved(store) -> None:
    save(), save()
    for version in ("v1", "v2", "v1"):
        models.set_alias("net@production", version)
        assert models.load("net@production").id == f"net:{version}"


def test_the_list_has_all_of_them_also_those_that_are_damaged(store) -> None:
    assert models.list().empty
    save(metrics={"accuracy": 0.5}), save(metrics={"accuracy": 0.75}), save(name="other")
    models.set_alias("net@production", "v2")
    (store / "other/v1/manifest.json").write_text("{")
    table = models.list()
    assert list(table.index) == ["net:v1", "net:v2", "other:v1"]
    assert list(table["aliases"]) == ["", "production", ""]
    assert list(table["accuracy"])[:2] == [0.5, 0.75]
    assert table["problem"].notna().tolist() == [False, False, True]
    assert "not a manifest" in table["problem"].iloc[2]


def test_the_folder_is_an_argument_or_of_the_environment(store, tmp_path, monkeypatch) -> None:
    save(store=tmp_path / "elsewhere")
    assert models.load("net", store=tmp_path / "elsewhere").id == "net:v1"
    assert not store.exists()
    monkeypatch.delenv("MLKIT_MODELS_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models.store_dir() == tmp_path / "mlkit" / "models"


UNKNOWN = {
    "gone": "no such model.*\n.*one of net",
    "ner": "mean 'net'",
    "net:v3": "no such version.*\n.*one of v1, v2",
    "net@prod": "no such alias",
    "../net": "invalid id",
    "net:../v1": "invalid id",
    "net:v1/..": "invalid id",
    "": "invalid id",
}


@pytest.mark.parametrize("id", UNKNOWN)
def test_an_unknown_id_is_an_error_of_the_request(store, id) -> None:
    save(), save()
    with pytest.raises(InputError, match=UNKNOWN[id]):
        models.load(id)


def truncate(folder) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip(folder) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")


def edit(folder, **changes) -> None:
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGES = {
    "a missing file": (lambda f: (f / "model.safetensors").unlink(), "the file is missing"),
    "a missing manifest": (lambda f: (f / MANIFEST).unlink(), "no artefact"),
    "a truncated file": (truncate, "has changed since it was saved"),
    "other bytes": (flip, "has changed since it was saved"),
    "other labels": (lambda f: edit(f, labels=["x", "y", "z"]), "has changed since it was saved"),
    "another builder": (lambda f: edit(f, builder="os:system"), "has changed since it was saved"),
    "another file": (lambda f: edit(f, files={"../x": "0"}), "not a manifest: files"),
    "an unknown field": (lambda f: edit(f, hook="x"), "not a manifest: hook"),
    "no JSON": (lambda f: (f / MANIFEST).write_bytes(b"\x80\x04"), "not a manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_changed_is_refused_and_others_load(store, damage) -> None:
    save(labels=["a", "b", "c"]), save(labels=["a", "b", "d"])
    assert models.load("net:v1")(X).shape == (2, 3)  # its digest is known to this process
    change, message = DAMAGES[damage]
    change(store / "net/v1")
    with pytest.raises(MlkitError, match=message):
        models.load("net:v1")
    assert models.load("net:v2").labels == ("a", "b", "d")


@pytest.mark.parametrize("builder", ["os:system", "builtins:dict", "json:loads", "gone:f", "os:no"])
def test_only_what_returns_a_module_is_called(store, builder) -> None:
    save()
    edit(store / "net/v1", builder=builder)
    text = (store / "net/v1" / MANIFEST).read_bytes()
    key = models.artefact.ModelManifest.model_validate_json(text).digest()
    edit(store / "net/v1", key=key)
    with pytest.raises(DefinitionError, match=r"not called|cannot import"):
        models.load("net:v1")


class NaN(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.abs().sum()
        return super().forward(x) * size / size  # NaN for zeros


class Twice(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


REFUSED = {
    "NaN": (lambda: save(NaN(4, 3), example=np.zeros_like(X)), MlkitError, "NaN for the example"),
    "another builder": (lambda: save(builder=lambda: linear(5)), DefinitionError, "wrong tensors"),
    "no arguments": (
        lambda: models.save(linear(), "net", example=X),
        DefinitionError,
        "cannot be built: .*in_features",
    ),
    "other code": (lambda: save(builder=lambda: Twice(4, 3)), MlkitError, "differ from those"),
    "too few labels": (lambda: save(labels=["a"]), DefinitionError, "labels do not fit"),
    "labels that are none": (lambda: save(labels=[1, 2, 3]), DefinitionError, "plain data"),
    "an object": (lambda: save(provenance={"x": object()}), DefinitionError, "plain data"),
    "no model": (lambda: save(object(), builder=None), DefinitionError, "cannot be saved"),
    "no file": (lambda: models.save("no.txt", "net", example=X), DefinitionError, "cannot be"),
    "a path as name": (lambda: save(name="../net"), DefinitionError, "invalid name"),
    "a path as version": (lambda: save(version="../v1"), DefinitionError, "invalid name"),
    "another input": (
        lambda: models.save(product(), "net", example=X[:, :3]),
        MlkitError,
        r"cannot run the model(.|\n)*float32 \[N, 3\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_back_is_not_saved(store, case) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()
    assert not list(store.rglob("*"))


def test_a_call_with_another_shape_or_a_nan_result_is_an_error(store) -> None:
    loaded = save(NaN(4, 3), builder=lambda: NaN(4, 3))
    with pytest.raises(DefinitionError, match=r"expected float32 \[N, 4\], got float32 \[2, 3\]"):
        loaded(X[:, :3])
    with pytest.raises(MlkitError, match="net:v1: output 0 of the model is NaN"):
        loaded(np.zeros_like(X))
    assert loaded(X).shape == (2, 3)


def test_a_class_of_a_notebook_is_passed_to_load(store) -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)

    module = Net()
    saved = models.save(module, "net", example=X)
    with pytest.raises(DefinitionError, match=r"models.load\('net:v1', builder=Net\)"):
        models.load("net")
    loaded = models.load("net", builder=Net)
    assert np.array_equal(loaded(X), saved(X))
    assert np.array_equal(loads(dumps(loaded))(X), saved(X))


def test_a_step_holds_a_model_and_only_another_one_changes_its_digest(store) -> None:
    first, second = save(), save()
    again = models.load("net:v1")

    @batched_step
    def classify(
        rows: list[list[float]], *, model: models.Artefact = resource(value=again)
    ) -> list[int]:
        return model(np.array(rows, np.float32)).argmax(axis=1).tolist()

    @pipeline
    def net(row: list[float]) -> int:
        return classify(row)

    assert net.problems == ()
    assert loads(dumps(net.graph)).nodes[0].step.resources["model"].value.key == first.key
    assert net([1, 2, 3, 4]) == first(np.array([[1, 2, 3, 4]], np.float32)).argmax()
    digests = [fingerprint(Resource(None, model, ())) for model in (first, again, second)]
    assert digests[0] == digests[1] != digests[2]


def test_a_replica_refuses_what_was_replaced_since(store) -> None:
    sent = dumps(save())
    (store / "net/v1").rename(store / "net/old")
    save(version="v1")
    with pytest.raises(MlkitError, match="has changed since it was saved"):
        loads(sent)
