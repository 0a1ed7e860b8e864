"""Weights that are mapped: modules of every kind are complete, equal, and private to write."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import load_weights, save_weights


class Tied(nn.Module):
    def __init__(self, words: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(x)))


class Computing(nn.Module):
    """Has tensors that are computed, and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("steps", torch.linspace(0, 1, 4), persistent=False)
        self.offset = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.steps + self.offset


class Reading(nn.Module):
    """Reads a tensor's contents when it is built, which the meta device does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Dropout(rate.item()) for rate in torch.linspace(0, 0.5, 3))
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Initialized(nn.Module):
    """Fills its tensors itself, one of them on the CPU whatever the default device is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.constant_(tensor=self.linear.bias, val=3)
        self.scale = torch.empty(4, device="cpu").fill_(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


FILLS = ("uniform", "normal", "fill", "zero_", "copy_")

MODULES = {
    "initialized": (Initialized, torch.randn(2, 4)),
    "linear": (lambda: nn.Linear(4, 3), torch.randn(2, 4)),
    "tied": (Tied, torch.arange(6)),
    "computing": (Computing, torch.randn(2, 4)),
    "reading": (Reading, torch.randn(2, 4)),
    "half": (lambda: nn.Linear(4, 3).to(torch.bfloat16), torch.randn(2, 4, dtype=torch.bfloat16)),
    "lstm": (lambda: nn.LSTM(4, 5, batch_first=True), torch.randn(2, 3, 4)),
    "shared": (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), torch.randn(2, 4)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16), torch.randn(3, 2, 8)),
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_loaded_module_is_the_saved_one(tmp_path, kind) -> None:
    build, x = MODULES[kind]
    module, file = build().eval(), tmp_path / "weights.safetensors"
    save_weights(module, file)
    loaded = load_weights(build, file)
    with torch.inference_mode():
        expected, got = module(x), loaded(x)
    assert torch.equal(got[0], expected[0])
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    state, saved = loaded.state_dict(), module.state_dict()
    assert state.keys() == saved.keys()
    assert all(state[name].dtype == saved[name].dtype for name in saved)


def test_tied_weights_are_one_object(tmp_path) -> None:
    file = tmp_path / "tied.safetensors"
    save_weights(Tied(), file)
    loaded = load_weights(Tied, file)
    assert loaded.head.weight is loaded.embed.weight


def test_writing_changes_neither_the_file_nor_other_modules(tmp_path) -> None:
    file = tmp_path / "linear.safetensors"
    save_weights(nn.Linear(4, 3), file)
    before = file.read_bytes()
    one, other = (load_weights(lambda: nn.Linear(4, 3), file) for _ in range(2))
    with torch.no_grad():
        one.weight.zero_()
    assert other.weight.any()
    assert file.read_bytes() == before


def test_what_does_not_fit_is_named(tmp_path) -> None:
    file = tmp_path / "linear.safetensors"
    save_weights(nn.Linear(4, 3), file)
    with pytest.raises(DefinitionError, match=r"wrong tensors: bias \[3\], not \[5\]"):
        load_weights(lambda: nn.Linear(4, 5), file)
    with pytest.raises(DefinitionError, match="unknown tensors: bias"):
        load_weights(lambda: nn.Linear(4, 3, bias=False), file)
    with pytest.raises(DefinitionError, match=r"lacks tensors: 0\.bias, 0\.weight"):
        load_weights(lambda: nn.Sequential(nn.Linear(4, 3)), file)
    with pytest.raises(DefinitionError, match="lacks tensors"):
        load_weights(Tied, file)


def test_files_that_are_none(tmp_path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(MlkitError, match="no such file"):
        load_weights(lambda: nn.Linear(4, 3), file)
    save_weights(nn.Linear(4, 3), file)
    for data in (b"", b"\x80\x04}.", file.read_bytes()[:-10]):
        file.write_bytes(data)
        with pytest.raises(MlkitError, match="not a safetensors file"):
            load_weights(lambda: nn.Linear(4, 3), file)
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_initialized_that_the_file_replaces(tmp_path) -> None:
    file = tmp_path / "weights.safetensors"
    operations = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operations.append(str(func))
            return func(*args, **(kwargs or {}))

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4))

    save_weights(build(), file)
    with Recording():
        load_weights(build, file)
    fills = [name for name in operations if any(word in name for word in FILLS)]
    assert fills == []
