import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import Preprocess, compile_model, openvino_engine
from mlkit.models.openvino_engine import pieces
from mlkit.models.whole import is_module

ENGINES = ["openvino", "torch"]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Double(nn.Module):
    def forward(self, x):
        return x * 2


class Split(nn.Module):
    def forward(self, x, y):
        return {"sum": x + y, "most": x.amax(1), "nothing": None}


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x.sum(1)


def floats(*shape):
    return RNG.random(shape, dtype=np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_tensor_comes_back_as_one_array_for_any_batch(engine):
    model = compile_model(Double(), example=floats(2, 3), engine=engine, precision="fp32")
    for size in (1, 2, 5):
        x = floats(size, 3)
        np.testing.assert_allclose(model(x), x * 2, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_inputs_and_a_dict_of_outputs(engine):
    x, y = floats(4, 3), floats(4, 3)
    model = compile_model(Split(), example=(x, y), engine=engine, precision="fp32")
    found = model(x, y)
    assert list(found) == ["sum", "most"]
    np.testing.assert_allclose(found["sum"], x + y, rtol=1e-6)
    np.testing.assert_allclose(found["most"], x.max(1), rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tuple_stays_a_tuple(engine):
    x = floats(3, 2)
    more, total = compile_model(Pair(), example=x, engine=engine, precision="fp32")(x)
    np.testing.assert_allclose(more, x + 1, rtol=1e-6)
    np.testing.assert_allclose(total, x.sum(1), rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_pictures_are_prepared_inside(engine):
    pictures = RNG.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    model = compile_model(
        nn.Identity(),
        example=pictures,
        preprocess=Preprocess(mean=(1.0, 2.0, 3.0), scale=4.0),
        engine=engine,
        precision="fp32",
    )
    wanted = ((pictures.astype(np.float32) - [1, 2, 3]) / 4).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(model(pictures), wanted, rtol=1e-6)


def test_both_engines_agree_on_a_network():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Flatten())
    x = floats(3, 3, 6, 6)
    fast, plain = (
        compile_model(net, example=x, engine=engine, precision="fp32") for engine in ENGINES
    )
    np.testing.assert_allclose(fast(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_module_is_run_in_evaluation_mode():
    net = nn.Sequential(nn.Dropout(0.9)).train()
    x = floats(4, 50)
    np.testing.assert_array_equal(compile_model(net, example=x, engine="torch")(x), x)


def test_fixed_batch_sizes_give_the_same_results_for_any_batch():
    model = compile_model(
        Pair(), example=floats(1, 2), engine="openvino", precision="fp32", batch_sizes=(4, 2)
    )
    for size in (1, 3, 7):
        x = floats(size, 2)
        more, total = model(x)
        np.testing.assert_allclose(more, x + 1, rtol=1e-6)
        assert total.shape == (size,)


def test_batch_sizes_that_are_not_faster_are_left_out(monkeypatch):
    compared = []

    def fastest(models, rows, differs):
        best, candidate = models
        compared.append((best.sizes, candidate.sizes, len(rows[0])))
        return candidate if 4 in candidate.sizes else best

    monkeypatch.setattr(openvino_engine, "fastest", fastest)
    model = compile_model(
        Pair(), example=floats(1, 2), engine="openvino", precision="fp32", batch_sizes=(2, 4)
    )
    assert compared == [((1,), (2, 1), 2), ((1,), (4, 1), 4)]
    assert model.sizes == (4, 1)
    x = floats(7, 2)
    more, total = model(x)
    np.testing.assert_allclose(more, x + 1, rtol=1e-6)
    np.testing.assert_allclose(total, x.sum(1), rtol=1e-6)


def test_a_batch_is_cut_into_the_largest_pieces():
    assert list(pieces(7, [4, 2, 1])) == [(0, 4), (4, 6), (6, 7)]


def test_results_outlive_the_next_call():
    model = compile_model(Double(), example=floats(1, 3), engine="openvino", workers=1)
    x = floats(1, 3)
    first = model(x)
    model(floats(1, 3) + 5)
    np.testing.assert_allclose(first, x * 2, rtol=1e-2)


def test_threads_get_their_own_results():
    model = compile_model(Double(), example=floats(1, 64), engine="openvino", precision="fp32")
    inputs = [np.full((1, 64), i, np.float32) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(model, inputs))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, np.full((1, 64), 2 * i))


def test_calls_run_side_by_side_up_to_the_number_of_workers():
    both_inside = threading.Barrier(2, timeout=5)

    class Meet(nn.Module):
        met = False

        def forward(self, x):
            if Meet.met:
                both_inside.wait()
            return x

    model = compile_model(Meet(), example=floats(1, 1), engine="torch", workers=2)
    Meet.met = True
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(model, [floats(1, 1)] * 2))) == 2


@pytest.fixture(scope="module", params=ENGINES)
def doubled(request):
    return compile_model(Double(), example=floats(2, 3), engine=request.param)


@pytest.mark.parametrize(
    "wrong",
    [floats(2, 4), floats(2, 3).astype(np.float64), floats(0, 3), floats(3)],
    ids=["width", "type", "empty", "axes"],
)
def test_an_array_of_another_kind_is_refused(doubled, wrong):
    with pytest.raises(DefinitionError, match=r"expected float32 \[N, 3\]"):
        doubled(wrong)


def test_what_the_code_does_with_values_is_not_frozen_silently():
    class Fickle(nn.Module):
        def forward(self, x):
            return x + torch.rand(1).item() * 1000

    with pytest.raises(MlkitError, match="different results"):
        compile_model(Fickle(), example=floats(1, 3), engine="openvino")


def test_what_openvino_cannot_run_is_run_by_torch_with_a_warning():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x)

    x = np.eye(3, dtype=np.float32)[None]
    with pytest.warns(UserWarning, match="falling back to torch"):
        model = compile_model(Odd(), example=x, device="cpu")
    assert model.target.engine == "torch"
    np.testing.assert_allclose(model(x), [[1, 1, 1]], rtol=1e-6)


def test_a_module_that_returns_no_tensors_is_refused():
    class Words(nn.Module):
        def forward(self, x):
            return "a word"

    with pytest.raises(DefinitionError, match="must return tensors"):
        compile_model(Words(), example=floats(1, 1), engine="torch")


def test_a_model_says_why_it_cannot_be_pickled():
    model = compile_model(Double(), example=floats(1, 1), engine="torch")
    with pytest.raises(TypeError, match=r"resource\(load_model\)"):
        pickle.dumps(model)


# --- the cache


def load(loads, key="k"):
    def loader():
        loads.append(1)
        return nn.Sequential(nn.Linear(3, 2))

    return compile_model(
        loader,
        example=floats(1, 3),
        engine="openvino",
        precision="fp32",
        batch_sizes=(1, 2),
        cache_key=key,
    )


def test_a_cached_model_is_not_loaded_again_and_says_the_same():
    loads = []
    x = floats(3, 3)
    first, second = load(loads), load(loads)
    assert loads == [1]
    np.testing.assert_allclose(first(x), second(x), rtol=1e-6)


def test_another_key_is_another_model():
    loads = []
    load(loads, "a")
    load(loads, "b")
    assert len(loads) == 2


def test_a_damaged_entry_is_built_again(cache_folder):
    loads = []
    load(loads)
    (blob,) = cache_folder.glob("*/1.blob")
    blob.write_bytes(blob.read_bytes()[:-10])
    load(loads)
    load(loads)
    assert len(loads) == 2


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot cache"):
        model = load([])
    assert model(floats(2, 3)).shape == (2, 2)


def test_importing_models_loads_neither_torch_nor_openvino():
    code = "import sys, mlkit.models; print({'torch', 'openvino', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_openvino_does_not_report_its_use():
    code = (
        "import sys; from mlkit.models.openvino_engine import core; core();"
        "import openvino; print(openvino.convert_model, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_compiling_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_model(Double(), example=floats(1, 3), engine="openvino")


def test_a_module_is_recognised_without_touching_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(1, 1)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())  # as while a thread imports it
    assert is_module(module)
    assert not is_module(len)
