import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import CompiledModel, optimize
from mlkit.models.evidence import Load
from mlkit.models.search import split
from mlkit.models.ways import WAYS

RNG = np.random.default_rng(0)
PHOTOS = RNG.random((12, 3, 8, 8), dtype=np.float32)
QUICK = {"batch_sizes": (1, 2), "threads": (1,), "progress": False, "time_budget_s": 0.0}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("mlkit.models.search.BLOCK_S", 0.0)
    return tmp_path


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
        )

    def forward(self, x):
        return self.features(x).mean((2, 3))


def unhurried(monkeypatch):
    monkeypatch.setattr("mlkit.models.evidence.TimeBox.may_build", lambda self: True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """One search of every way but the one that compiles for a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("mlkit.models.search.BLOCK_S", 0.0)
        unhurried(patch)
        names = [way.name for way in WAYS if way.name != "torch.compile"]
        return optimize(
            Net(),
            PHOTOS[:1],
            inputs=PHOTOS,
            evaluate=lambda model: model(PHOTOS).argmax(1) == 0,
            ways=names,
            **QUICK,
        )


def of(result, name):
    return next(variant for variant in result.variants if variant.name == name)


@pytest.mark.parametrize(
    "name", ["eager fp32", "OpenVINO fp32", "channels last", "torch.export", "ONNX Runtime"]
)
def test_exact_ways_agree_and_are_measured(searched, name):
    variant = of(searched, name)
    assert variant.failure == ""
    assert variant.agreement == 1.0
    assert variant.blocks_ms[Load(2, 1)][0] > 0
    assert variant.file_mb > 0
    assert variant.load_s > 0
    assert 0 <= variant.accuracy.low <= variant.accuracy.value <= variant.accuracy.high <= 1


def test_int8_is_calibrated_with_some_inputs_and_compared_on_others(searched):
    variant = of(searched, "OpenVINO int8")
    assert variant.failure == ""
    assert 0 < variant.max_difference < 0.1


def test_pruning_is_shown_with_what_it_costs(searched):
    for name in ("pruned weights", "pruned channels"):
        assert of(searched, name).failure == ""
        assert of(searched, name).max_difference > 0
    smaller = of(searched, "pruned channels").file_mb
    assert smaller < of(searched, "OpenVINO fp32").file_mb


def test_the_frame_the_card_and_the_plot_show_every_variant(searched):
    frame = searched.to_frame()
    assert list(frame["variant"].unique()) == [variant.name for variant in searched.variants]
    assert frame["pareto"].any()
    html = searched._repr_html_()
    assert all(variant.name in html for variant in searched.variants)
    left, _ = searched.plot().axes
    assert len(left.get_yticklabels()) == len(searched.variants)


@pytest.mark.parametrize("name", ["eager fp32", "OpenVINO fp32", "OpenVINO int8", "pruned weights"])
def test_a_picked_variant_gives_the_results_that_were_compared(searched, monkeypatch, name):
    monkeypatch.setattr(type(searched), "best", lambda self, **_: of(self, name))
    with torch.inference_mode():
        wanted = Net().eval()(torch.from_numpy(PHOTOS)).numpy()
    model = searched.pick()
    assert isinstance(model, CompiledModel)
    # Those that calibrate the search are not among those it compares.
    allowed = max(1e-3, 2 * of(searched, name).max_difference)
    np.testing.assert_allclose(model(PHOTOS), wanted, atol=allowed)


def test_a_result_can_be_sent_to_where_a_step_loads_its_model(searched):
    import cloudpickle

    again = pickle.loads(cloudpickle.dumps(searched))
    assert again.pick()(PHOTOS).shape == (12, 4)


def test_the_same_search_is_read_from_the_cache_and_another_is_not(monkeypatch):
    def search(net):
        return optimize(net, PHOTOS[:1], ways=["channels last"], **QUICK)

    first = search(Net())
    loads = []
    monkeypatch.setattr("mlkit.models.search.block", lambda *_: loads.append(1) or [1.0])
    assert search(Net()).to_frame().equals(first.to_frame())
    assert loads == []
    other = Net()
    with torch.no_grad():
        other.features[3].bias += 1
    search(other)
    assert loads != []


def test_a_damaged_entry_is_measured_again(cache_folder):
    def search():
        return optimize(Net(), PHOTOS[:1], ways=["eager fp32"], **QUICK)

    search()
    (about,) = cache_folder.glob("*/about.json")
    about.write_text("{")
    search()
    assert json.loads(about.read_text())["variants"]


def test_an_interrupt_keeps_what_was_measured_and_is_not_cached(monkeypatch, cache_folder):
    def interrupted(self, folder):
        raise KeyboardInterrupt

    unhurried(monkeypatch)
    monkeypatch.setattr("mlkit.models.ways.WayFiles._openvino", interrupted)
    result = optimize(Net(), PHOTOS[:1], ways=["OpenVINO fp32"], **QUICK)
    assert "Interrupted" in result.note
    assert [(v.name, v.failure) for v in result.variants] == [
        ("eager fp32", ""),
        ("OpenVINO fp32", "interrupted"),
    ]
    assert result.variants[0].agreement == 1.0
    assert result.pick()(PHOTOS).shape == (12, 4)
    del result
    assert list(cache_folder.glob("*/about.json")) == []


def test_a_way_that_fails_says_why_and_the_others_go_on(monkeypatch):
    class Odd(nn.Module):
        def forward(self, x):
            return x * (2 if x.sum() > 0 else 1)

    unhurried(monkeypatch)
    result = optimize(Odd(), PHOTOS[:2], ways=["OpenVINO fp32", "channels last"], **QUICK)
    assert "torch cannot export" in of(result, "OpenVINO fp32").failure
    assert of(result, "channels last").failure == ""


def test_bf16_is_not_tried_on_a_cpu_without_it(monkeypatch):
    monkeypatch.setattr("mlkit.models.ways.cpu_has_bf16", lambda: False)
    unhurried(monkeypatch)
    result = optimize(Net(), PHOTOS[:1], ways=["autocast bf16", "OpenVINO bf16"], **QUICK)
    assert [v.failure for v in result.variants] == ["", *["the CPU has no bfloat16"] * 2]


def test_what_the_time_budget_does_not_allow_is_not_tried():
    result = optimize(Net(), PHOTOS[:1], ways=["OpenVINO fp32"], **QUICK)
    assert of(result, "OpenVINO fp32").failure.startswith("not tried")
    assert of(result, "eager fp32").blocks_ms
    assert "too few for intervals" in result.note


def test_a_model_that_returns_nan_is_refused():
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0

    with pytest.raises(MlkitError, match="NaN or infinite"):
        optimize(Broken(), PHOTOS[:1], **QUICK)


def test_without_inputs_int8_says_what_it_needs(monkeypatch):
    unhurried(monkeypatch)
    result = optimize(Net(), PHOTOS[:1], ways=["OpenVINO int8"], **QUICK)
    assert "inputs=" in of(result, "OpenVINO int8").failure


def test_pruned_weights_stay_zero_while_the_model_is_tuned(monkeypatch):
    tuned = []

    def fine_tune(net):
        with torch.no_grad():
            net.features[3].weight_orig += 1
        net(torch.from_numpy(PHOTOS))
        tuned.append(float((net.features[3].weight == 0).double().mean()))

    unhurried(monkeypatch)
    optimize(Net(), PHOTOS[:1], fine_tune=fine_tune, ways=["pruned weights"], **QUICK)
    assert tuned[0] > 0.2


def test_the_module_and_torchs_threads_are_as_before():
    net, threads = Net(), torch.get_num_threads()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimize(net, PHOTOS[:1], ways=["channels last"], **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": PHOTOS[:, :1]}, "inputs="),
        ({"inputs": PHOTOS.astype(np.float64)}, "inputs="),
        ({"batch_sizes": ()}, "batch_sizes="),
        ({"ways": ["OpenVINO int9"]}, "did you mean 'OpenVINO int8'"),
    ],
)
def test_invalid_arguments_are_refused(options, words):
    with pytest.raises(DefinitionError, match=words):
        optimize(Net(), PHOTOS[:1], **QUICK | options)


def test_half_of_the_inputs_calibrate_and_the_others_are_compared():
    items = np.arange(10)
    calibrates, compared = split((items,), (items[:1],))
    assert len(calibrates[0]) == len(compared[0]) == 5
    assert {*calibrates[0], *compared[0]} == {*items}
    assert len(split((np.arange(1000),), (items,))[0][0]) == 200
    assert split(None, (items,)) == (None, (items,))
