"""Models that OpenVINO runs on the CPU, and their serialization."""

from __future__ import annotations

import functools
import json
import logging
import queue
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.errors import MlkitError
from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target
from mlkit.models.timing import fastest
from mlkit.models.whole import tensors

if TYPE_CHECKING:
    import torch


@contextmanager
def absent(package: str) -> Iterator[None]:
    """Make imports of a package fail, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


# `import openvino` reports its use to Google Analytics, unless the user has opted out or the
# package for that is missing.
with absent("openvino_telemetry"):
    import openvino

__all__ = [
    "OpenVinoModel",
    "absent",
    "convert",
    "core",
    "export",
    "fingerprint",
    "read_model",
    "save",
]

DYNAMIC = 0
"""Batch size of an executable that takes any."""


@functools.cache
def core() -> openvino.Core:
    """Return the OpenVINO runtime of this process."""
    return openvino.Core()


def read_model(file: Path) -> openvino.Model:
    """Read an ONNX file or OpenVINO IR.

    Raises:
        MlkitError: it, or a file with its weights, is missing or cannot be read.
    """
    try:
        return core().read_model(file)
    except RuntimeError as error:
        raise MlkitError(
            f"OpenVINO cannot read the model: {str(error).strip()[-300:]}", where=str(file)
        ) from error


def fingerprint() -> str:
    """Identify what a compiled model depends on besides its source: OpenVINO and the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = ""
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"{openvino.get_version()} {sorted(capabilities)} {flags}"


def export(
    module: torch.nn.Module, example: Sequence[Array], inputs: Sequence[ArraySpec]
) -> torch.export.ExportedProgram:
    """Export a module that returns a tuple of tensors, for all lengths of its dynamic axes.

    Raises:
        MlkitError: the module cannot be exported.
    """
    import torch
    from torch.fx.experimental import _config as shapes

    dynamic = torch.export.Dim.DYNAMIC
    # It writes pages about what the error says.
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    axes = tuple({i: dynamic for i, n in enumerate(spec.shape) if n is None} for spec in inputs)
    try:
        # Else an axis of length 1 in the example has that length for good.
        with (
            shapes.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            logger.disabled = True
            return torch.export.export(
                module, tuple(tensors(_enlarged(example, inputs))), dynamic_shapes=(axes,)
            )
    except Exception as error:
        raise MlkitError(
            f"torch cannot export {type(module).__name__}: {_reason(error)}",
            where="compile_model",
            fix="pass engine='torch', or dynamic_axes= without the axes whose length the code uses",
        ) from error
    finally:
        logger.disabled = False


def _enlarged(example: Sequence[Array], inputs: Sequence[ArraySpec]) -> list[Array]:
    """Repeat items along dynamic axes of length 1, which code treats as other lengths."""
    arrays = list(example)
    for axis in {axis for spec in inputs for axis, n in enumerate(spec.shape) if n is None}:
        having = [i for i, spec in enumerate(inputs) if spec.shape[axis : axis + 1] == (None,)]
        if all(arrays[i].shape[axis] == 1 for i in having):
            for i in having:
                arrays[i] = np.repeat(arrays[i], 2, axis)
    return arrays


def _reason(error: Exception) -> str:
    """The first paragraph of an error; torch appends pages."""
    return str(error).strip().split("\n\n")[0][:400] or type(error).__name__


def convert(
    module: torch.nn.Module, example: Sequence[Array], inputs: Sequence[ArraySpec]
) -> openvino.Model:
    """Export a module that returns a tuple of tensors into an OpenVINO model.

    Raises:
        MlkitError: the export or the conversion fails, or the results differ from the module's.
    """
    program = export(module, example, inputs)
    shapes = [openvino.PartialShape([-1 if n is None else n for n in s.shape]) for s in inputs]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = openvino.convert_model(program, input=shapes)
    except Exception as error:
        raise MlkitError(
            f"OpenVINO cannot convert {type(module).__name__}: {str(error).strip()[-300:]}",
            where="compile_model",
            fix="pass engine='torch'",
        ) from error
    _check_agreement(module, model, tensors(_enlarged(example, inputs)))
    return model


def save(model: openvino.Model, file: Path) -> None:
    """Write a model as IR: an XML file, and its weights beside it."""
    openvino.save_model(model, file, compress_to_fp16=False)


def _check_agreement(
    module: torch.nn.Module, model: openvino.Model, example: Sequence[torch.Tensor]
) -> None:
    """Compare both on the example: random numbers and constants may be frozen in the export."""
    import torch

    with torch.inference_mode():
        wanted = [result.numpy() for result in module(*example)]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    request = core().compile_model(model, "CPU", exact).create_infer_request()
    got = list(request.infer([t.numpy() for t in example]).values())
    for index, (a, b) in enumerate(zip(wanted, got, strict=True)):
        limit = 1e-3 * max(1.0, float(np.abs(a.astype(np.float64)).max(initial=0.0)))
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=limit, equal_nan=True):
            raise MlkitError(
                f"OpenVINO and the module give different results (output {index})",
                where="compile_model",
                expected=f"{a.dtype} {list(a.shape)}, {a.ravel()[:3]}…",
                got=f"{b.dtype} {list(b.shape)}, {b.ravel()[:3]}…",
                fix="pass engine='torch', or an example= that takes the usual code path",
            )


def _config(target: Target) -> dict[str, Any]:
    return {
        "NUM_STREAMS": target.workers,
        "INFERENCE_NUM_THREADS": target.threads,
        "INFERENCE_PRECISION_HINT": "bf16" if target.precision == "bf16" else "f32",
        # Pinned streams of several processes would compete for the same cores.
        "ENABLE_CPU_PINNING": False,
    }


class OpenVinoModel(CompiledModel):
    """One executable for any batch size, or one for each of several sizes.

    With fixed sizes a batch is split into pieces of those sizes, the largest first: fixed shapes
    run faster, and on many CPUs small batches are as fast per item as large ones.
    """

    def __init__(
        self,
        executables: dict[int, openvino.CompiledModel],
        target: Target,
        inputs: tuple[ArraySpec, ...],
        structure: Structure,
    ) -> None:
        super().__init__(target, inputs, structure)
        self._executables = executables
        self._sizes = sorted(executables, reverse=True)
        self._lanes: queue.SimpleQueue[dict[int, openvino.InferRequest]] = queue.SimpleQueue()
        for _ in range(target.workers):
            self._lanes.put({})

    @classmethod
    def build(
        cls,
        model: openvino.Model,
        target: Target,
        inputs: tuple[ArraySpec, ...],
        structure: Structure,
        sizes: Sequence[int],
    ) -> OpenVinoModel:
        """Compile a converted model for some batch sizes; for any size if there are none."""
        executables = {}
        for size in sizes or [DYNAMIC]:
            if size != DYNAMIC:
                model.reshape({i: [size, *spec.shape[1:]] for i, spec in enumerate(inputs)})
            executables[size] = core().compile_model(model, "CPU", _config(target))
        return cls(executables, target, inputs, structure)

    def with_sizes(self, sizes: Iterable[int]) -> OpenVinoModel:
        """Return a model of some of its executables."""
        executables = {size: self._executables[size] for size in sizes}
        return OpenVinoModel(executables, self.target, self.inputs, self.structure)

    def with_useful_sizes(self, example: Sequence[Array]) -> OpenVinoModel:
        """Leave out the batch sizes that are not faster than batches split into smaller ones.

        Small batches keep activations in the cache, large ones read the weights once: which is
        faster depends on the model and the CPU.

        Args:
            example: inputs to time it with, repeated to the length of each size.
        """
        smallest, *larger = reversed(self._sizes)
        best = self.with_sizes([smallest])
        for size in larger:
            rows = [np.resize(array, (size, *array.shape[1:])) for array in example]
            candidate = self.with_sizes([*best.sizes, size])
            best = fastest([best, candidate], rows, differs=lambda exact, other: "")
        best.timed_ms, best.refused = self.timed_ms, self.refused
        return best

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes of its executables, the largest first."""
        return tuple(self._sizes)

    def save(self, folder: Path) -> None:
        """Write the model to a folder; see `load`."""
        sizes = {}
        for size, executable in self._executables.items():
            blob = executable.export_model().getvalue()
            (folder / f"{size}.blob").write_bytes(blob)
            sizes[size] = len(blob)
        about = {
            "blobs": sizes,
            "structure": asdict(self.structure),
            "precision": self.target.precision,
            "timed_ms": self.timed_ms,
            "refused": self.refused,
        }
        (folder / "about.json").write_text(json.dumps(about))

    @classmethod
    def load(
        cls, folder: Path, target: Target, inputs: tuple[ArraySpec, ...]
    ) -> OpenVinoModel | None:
        """Read a saved model; None if it is corrupt or was written by another OpenVINO.

        The files are memory-mapped, so that processes on one machine share their pages.
        """
        try:
            about = json.loads((folder / "about.json").read_text())
            target = replace(target, precision=about["precision"])
            executables = {
                int(size): _import(folder / f"{size}.blob", length, target)
                for size, length in about["blobs"].items()
            }
            kind, names = about["structure"]["kind"], about["structure"]["names"]
            timed_ms, refused = dict(about["timed_ms"]), dict(about["refused"])
        except (OSError, ValueError, KeyError, RuntimeError):
            return None
        loaded = cls(executables, target, inputs, Structure(kind, tuple(names)))
        loaded.timed_ms, loaded.refused = timed_ms, refused
        return loaded

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        arrays = [np.ascontiguousarray(array) for array in arrays]
        lane = self._lanes.get()
        try:
            if self._sizes == [DYNAMIC]:
                return self._infer(lane, DYNAMIC, arrays)
            results = [
                self._infer(lane, stop - start, [array[start:stop] for array in arrays])
                for start, stop in pieces(len(arrays[0]), self._sizes)
            ]
        finally:
            self._lanes.put(lane)
        if len(results) == 1:
            return results[0]
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _infer(
        self, lane: dict[int, openvino.InferRequest], size: int, arrays: Sequence[Array]
    ) -> Sequence[Array]:
        request = lane.get(size)
        if request is None:
            request = lane[size] = self._executables[size].create_infer_request()
        # Inputs are read in place, since the caller is blocked; results are copied, since the next
        # call on this lane overwrites them.
        return tuple(request.infer(dict(enumerate(arrays)), share_inputs=True).values())


def _import(path: Path, length: int, target: Target) -> openvino.CompiledModel:
    blob = np.memmap(path, dtype=np.uint8, mode="r")
    if len(blob) != length:
        raise ValueError("truncated file")
    return core().import_model(openvino.Tensor(blob), "CPU", _config(target))


def pieces(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Split ``count`` items into pieces of the given sizes, which descend to 1."""
    start = 0
    for size in sizes:
        while count - start >= size:
            yield start, start + size
            start += size
