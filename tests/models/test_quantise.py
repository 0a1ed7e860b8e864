import numpy as np
import pytest
import torch
from torch import nn

from mlkit.errors import DefinitionError
from mlkit.models import compile_model

RNG = np.random.default_rng(0)
PHOTOS = RNG.random((16, 3, 8, 8), dtype=np.float32)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3), nn.Flatten())


def test_int8_gives_nearly_the_same_results_and_is_cached():
    loads = []

    def load():
        loads.append(net())
        return loads[0]

    options = {"example": PHOTOS[:1], "calibration": PHOTOS, "cache_key": "k", "device": "cpu"}
    first, again = (compile_model(load, precision="int8", **options) for _ in range(2))
    exact = compile_model(loads[0], example=PHOTOS[:1], precision="fp32", device="cpu")
    assert len(loads) == 1
    assert first.target.precision == again.target.precision == "int8"
    wanted = exact(PHOTOS)
    for model in (first, again):
        error = np.linalg.norm(model(PHOTOS) - wanted)
        assert 0 < error < 0.1 * np.linalg.norm(wanted)


def test_auto_considers_int8_where_there_are_inputs_to_calibrate_with():
    compared = []

    def agreement(exact, other):
        compared.append(len(exact))
        return False

    model = compile_model(
        net(), example=PHOTOS[:1], calibration=PHOTOS, agreement=agreement, device="cpu"
    )
    assert "int8" in model.refused
    assert set(compared) == {len(PHOTOS)}


def test_int8_without_inputs_to_calibrate_with_is_refused():
    with pytest.raises(DefinitionError, match="calibration="):
        compile_model(net(), example=PHOTOS[:1], precision="int8")


def test_int8_on_torch_is_refused():
    with pytest.raises(DefinitionError, match="only OpenVINO"):
        compile_model(
            net(), example=PHOTOS[:1], precision="int8", engine="torch", calibration=PHOTOS
        )
