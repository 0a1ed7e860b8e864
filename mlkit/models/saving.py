"""Writing models to folders that `mlkit.models.artefact` opens, and checking that it can."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models.artefact import (
    FILES,
    MANIFEST,
    Artefact,
    Builder,
    ModelManifest,
    compiled,
    file_digest,
    importable_name,
    open_artefact,
)
from mlkit.models.model import Array, ArraySpec, PrecisionUsed, Structure
from mlkit.models.weights import save_weights
from mlkit.models.whole import Preprocess, is_module, tensors

if TYPE_CHECKING:
    import openvino
    import torch

__all__ = ["write_artefact"]

_TOLERANCE: dict[PrecisionUsed, float] = {"fp32": 1e-3, "bf16": 5e-2}


def write_artefact(
    model: torch.nn.Module | openvino.Model | Path,
    folder: Path,
    *,
    id: str,
    example: Array | tuple[Array, ...],
    builder: Builder | None,
    kwargs: Mapping[str, Any],
    preprocess: Preprocess | None,
    precision: PrecisionUsed,
    batch_sizes: Sequence[int],
    dynamic_axes: Sequence[int],
    labels: Sequence[str],
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> ModelManifest:
    """Write a model to an empty folder, and check that it loads and computes the same.

    Raises:
        DefinitionError: the model cannot be saved, or not be loaded again.
        MlkitError: it returns NaN for the example, or what was loaded computes something else.
    """
    examples = example if isinstance(example, tuple) else (example,)
    inputs = tuple(ArraySpec.of(array, dynamic_axes) for array in examples)
    known: dict[str, Any] = {
        "inputs": inputs,
        "kwargs": kwargs,
        "preprocess": preprocess,
        "precision": precision,
        "batch_sizes": batch_sizes,
        "labels": labels,
        "metrics": {name: float(value) for name, value in metrics.items()},
    }
    if is_module(model):
        module = cast("torch.nn.Module", model)
        builder = builder or type(module)
        save_weights(module, folder / FILES["safetensors"])
        structure, expected = _outputs_of(module, examples, preprocess)
        known |= {"format": "safetensors", "builder": importable_name(builder)}
        library = "torch"
    else:
        if builder is not None or kwargs or preprocess is not None:
            raise DefinitionError(
                "builder=, kwargs= and preprocess= are for torch modules",
                where=id,
                fix="compile the preprocessing into the model, as compile_model does",
            )
        known["format"] = _copied(cast("openvino.Model | Path", model), folder, id)
        structure, expected = _run_once(folder / FILES[known["format"]], known, examples)
        library = "openvino"
    _check_outputs(id, structure, expected, labels)
    known |= {
        "structure": structure,
        "outputs": [ArraySpec.of(a, (0,) if 0 in dynamic_axes else ()) for a in expected],
        "provenance": {
            "python": platform.python_version(),
            **{package: version_of(package) for package in ("mlkit", library)},
            **provenance,
        },
        "files": {file.name: file_digest(file) for file in sorted(folder.iterdir())},
        "saved_at": datetime.now(UTC),
    }
    try:
        manifest = ModelManifest.model_validate_json(to_json(known))
    except (ValidationError, PydanticSerializationError) as error:
        raise DefinitionError(
            f"labels, metrics, kwargs and provenance must be plain data: {error}", where=id
        ) from None
    manifest = manifest.model_copy(update={"key": manifest.digest()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    _check_agreement(open_artefact(id, folder, builder), examples, expected)
    return manifest


def _check_agreement(
    loaded: Artefact, examples: Sequence[Array], expected: Sequence[Array]
) -> None:
    """Compare what was loaded again: its builder may be that of another module."""
    import numpy as np

    tolerance = _TOLERANCE[loaded.manifest.precision]
    for wanted, got in zip(expected, loaded._run(examples), strict=True):
        limit = tolerance * max(1.0, float(np.abs(wanted).max(initial=0)))
        if wanted.shape != got.shape or np.abs(wanted - got).max(initial=0) > limit:
            raise MlkitError(
                "the results of the loaded model differ from those of the saved one",
                where=loaded.id,
                expected=f"{list(wanted.shape)}, {wanted.ravel()[:3]}…",
                got=f"{list(got.shape)}, {got.ravel()[:3]}…",
                fix="pass the builder= and kwargs= that this module was built with",
            )


def _outputs_of(
    module: torch.nn.Module, examples: Sequence[Array], preprocess: Preprocess | None
) -> tuple[Structure, Sequence[Array]]:
    """Run a module in evaluation mode where it is, and leave it as it was."""
    import torch

    modes = {inner: inner.training for inner in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    first, *rest = (tensor.to(device) for tensor in tensors(examples))
    try:
        with torch.inference_mode():
            first = first if preprocess is None else preprocess.apply(first)
            structure, flat = Structure.unpack(module.eval()(first, *rest))
    finally:
        for inner, mode in modes.items():
            inner.training = mode
    return structure, [(t.float() if t.dtype == torch.bfloat16 else t).cpu().numpy() for t in flat]


def _copied(model: openvino.Model | Path, folder: Path, id: str) -> Literal["openvino", "onnx"]:
    """Write an OpenVINO model, or copy the file of a model; the format."""
    import openvino

    from mlkit.models.openvino_engine import read_model

    if isinstance(model, Path) and model.suffix == ".onnx":
        copy = folder / FILES["onnx"]
        shutil.copyfile(model, copy)
        with suppress(MlkitError):  # its weights are in files beside it
            read_model(copy)
            return "onnx"
        copy.unlink()
    if isinstance(model, Path) and model.suffix in {".onnx", ".xml"}:
        model = read_model(model)
    if not isinstance(model, openvino.Model):
        raise DefinitionError(
            "cannot be saved",
            where=id,
            expected="a torch module, an OpenVINO model, or the path of an .onnx or .xml file",
            got=str(model) if isinstance(model, Path) else type(model).__name__,
        )
    openvino.save_model(model, folder / FILES["openvino"], compress_to_fp16=False)
    return "openvino"


def _run_once(
    file: Path, known: Mapping[str, Any], examples: Sequence[Array]
) -> tuple[Structure, Sequence[Array]]:
    engine = compiled(file, known["inputs"], Structure("tuple"), known["precision"], ())
    expected = engine._run(examples)
    return Structure("array" if len(expected) == 1 else "tuple"), expected


def _check_outputs(
    id: str, structure: Structure, outputs: Sequence[Array], labels: Sequence[str]
) -> None:
    import numpy as np

    for index, output in enumerate(outputs):
        if output.dtype.kind == "f" and np.isnan(output).any():
            raise MlkitError(f"output {index} of the model is NaN for the example", where=id)
    if labels and (structure.kind != "array" or outputs[0].shape[-1:] != (len(labels),)):
        raise DefinitionError(
            "the labels do not fit the output",
            where=id,
            expected=f"as many as the last axis of {[list(o.shape) for o in outputs]}",
            got=f"{len(labels)} labels",
        )
