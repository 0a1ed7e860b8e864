"""The ways to run a model that `optimize` tries: what each writes to disk, and how it is loaded."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlkit.errors import MlkitError
from mlkit.models.model import Array, ArraySpec, CompiledModel, PrecisionUsed, Structure, Target
from mlkit.models.prune import prune_channels, prune_weights
from mlkit.models.quantise import quantise
from mlkit.models.source import Source
from mlkit.models.target import cpu_has_bf16
from mlkit.models.weights import load_weights, save_weights
from mlkit.models.whole import tensors

if TYPE_CHECKING:
    import openvino
    import torch

__all__ = ["WAYS", "Way", "WayFiles"]

PRUNED_WEIGHTS = 0.5
PRUNED_CHANNELS = 0.25


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        files: what it loads; see `WayFiles`. Several ways may share it.
        variation: of how torch runs it.
    """

    name: str
    files: str
    engine: Literal["onnxruntime", "openvino", "torch"]
    precision: PrecisionUsed = "fp32"
    variation: Literal["", "channels_last", "compile"] = ""

    def missing(self) -> str:
        """What this machine lacks for it; empty if nothing."""
        if self.precision == "bf16" and not cpu_has_bf16():
            return "the CPU has no bfloat16"
        if self.files == "int8" and importlib.util.find_spec("nncf") is None:
            return "needs nncf (the extra quantise)"
        if self.variation == "compile" and not any(
            shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name
        ):
            return "needs a C++ compiler, such as g++"
        needed = ("onnxscript", "onnxruntime") if self.engine == "onnxruntime" else ()
        lacking = [name for name in needed if importlib.util.find_spec(name) is None]
        return f"needs {' and '.join(lacking)} (the extra onnx)" if lacking else ""

    def load(
        self,
        folder: Path,
        source: Source,
        target: Target,
        inputs: tuple[ArraySpec, ...],
        structure: Structure,
        sizes: tuple[int, ...],
    ) -> CompiledModel:
        """Load the model from its files."""
        if self.engine == "openvino":
            from mlkit.models.openvino_engine import OpenVinoModel, core

            model = core().read_model(folder / "model.xml")
            return OpenVinoModel.build(model, target, inputs, structure, sizes)
        if self.engine == "onnxruntime":
            from mlkit.models.onnx_engine import OnnxModel

            return OnnxModel(folder / "model.onnx", target, inputs, structure)
        from mlkit.models.torch_engine import TorchModel

        module = self._module(folder, source)
        return TorchModel(module, target, inputs, structure, independent=bool(sizes))

    def _module(self, folder: Path, source: Source) -> Any:
        import torch

        if self.files == "export":
            # Its guards refuse batches of 1; mlkit checks shapes itself.
            return torch.export.load(folder / "model.pt2").module(check_guards=False)
        module = load_weights(lambda: copy.deepcopy(source.load()[0]), folder / "model.safetensors")
        if self.variation == "channels_last":
            return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.compile(module) if self.variation == "compile" else module


WAYS = (
    Way("eager fp32", "weights", "torch"),
    Way("OpenVINO fp32", "openvino", "openvino"),
    Way("OpenVINO bf16", "openvino", "openvino", "bf16"),
    Way("OpenVINO int8", "int8", "openvino", "int8"),
    Way("channels last", "weights", "torch", variation="channels_last"),
    Way("autocast bf16", "weights", "torch", "bf16"),
    Way("ONNX Runtime", "onnx", "onnxruntime"),
    Way("pruned weights", "pruned_weights", "openvino"),
    Way("pruned channels", "pruned_channels", "openvino"),
    Way("torch.export", "export", "torch"),
    Way("torch.compile", "weights", "torch", variation="compile"),
)
"""In the order in which they are tried: the reference first, then what is often fastest, and what
takes longest to build last."""


class WayFiles:
    """Builds the files of a model's ways.

    Args:
        source: the module and its example.
        inputs: dtypes and shapes of its inputs.
        calibration: inputs to quantise with; None for none.
        fine_tune: trains a pruned module in place.
    """

    def __init__(
        self,
        source: Source,
        inputs: tuple[ArraySpec, ...],
        calibration: tuple[Array, ...] | None,
        fine_tune: Callable[[torch.nn.Module], object] | None,
    ) -> None:
        self._source, self._inputs = source, inputs
        self._calibration, self._fine_tune = calibration, fine_tune

    def write(self, kind: str, folder: Path) -> None:
        """Build files of a kind.

        Raises:
            MlkitError: the module cannot be converted, or something is missing.
        """
        folder.mkdir(parents=True)
        builder: Callable[[Path], None] = getattr(self, f"_{kind}")
        try:
            builder(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _weights(self, folder: Path) -> None:
        save_weights(self._source.load()[0], folder / "model.safetensors")

    def _openvino(self, folder: Path) -> None:
        _save(self._model, folder)

    def _int8(self, folder: Path) -> None:
        if self._calibration is None:
            raise MlkitError("int8 needs inputs= to choose its ranges with", where="optimize")
        _save(quantise(self._model, self._calibration), folder)

    def _export(self, folder: Path) -> None:
        import torch

        torch.export.save(self._program, folder / "model.pt2")

    def _onnx(self, folder: Path) -> None:
        import torch

        torch.onnx.export(
            self._program, f=folder / "model.onnx", dynamo=True, external_data=False, verbose=False
        )

    def _pruned_weights(self, folder: Path) -> None:
        module = copy.deepcopy(self._source.load()[0])
        prune_weights(module.get_submodule("module"), PRUNED_WEIGHTS, self._fine_tune)
        _save(self._converted(module), folder)

    def _pruned_channels(self, folder: Path) -> None:
        import torch
        from openvino._offline_transformations import apply_pruning_transformation

        module = copy.deepcopy(self._source.load()[0])

        def run() -> None:
            with torch.inference_mode():
                module(*tensors(self._source.examples))

        inner = module.get_submodule("module")
        prune_channels(inner, PRUNED_CHANNELS, self._fine_tune, run)
        model = self._converted(module)
        before = _weight_count(model)
        apply_pruning_transformation(model)
        if _weight_count(model) >= before:
            raise MlkitError("the compiler could remove no channel", where="optimize")
        _save(model, folder)

    @cached_property
    def _program(self) -> torch.export.ExportedProgram:
        from mlkit.models.openvino_engine import export

        return export(self._source.load()[0], self._source.examples, self._inputs)

    @cached_property
    def _model(self) -> openvino.Model:
        return self._converted(self._source.load()[0])

    def _converted(self, module: torch.nn.Module) -> openvino.Model:
        from mlkit.models.openvino_engine import convert

        return convert(module, self._source.examples, self._inputs)


def _save(model: openvino.Model, folder: Path) -> None:
    from mlkit.models.openvino_engine import save

    save(model, folder / "model.xml")


def _weight_count(model: openvino.Model) -> int:
    return sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant")
