"""Compilation of torch modules for the hardware at hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlkit.errors import DefinitionError, MlkitError, entry_point
from mlkit.models import cache
from mlkit.models.model import Array, ArraySpec, CompiledModel, PrecisionUsed, Structure, Target
from mlkit.models.target import Device, Engine, Precision, choose
from mlkit.models.timing import fastest
from mlkit.models.whole import Preprocess, is_module, tensors, whole

if TYPE_CHECKING:
    import torch

__all__ = ["compile_model"]

FORMAT = "2"
"""Version of the cache's file format; part of every key."""


@entry_point
def compile_model(
    module: torch.nn.Module | Callable[[], torch.nn.Module],
    *,
    example: Array | tuple[Array, ...],
    preprocess: Preprocess | None = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    workers: int | None = None,
    threads: int | None = None,
    dynamic_axes: Sequence[int] = (0,),
    batch_sizes: Sequence[int] = (),
    cache_key: str | None = None,
) -> CompiledModel:
    """Compile a torch module for this machine; the result takes and returns numpy arrays.

    If a CUDA device is available, torch runs the module there; otherwise OpenVINO runs it on the
    CPU, in bfloat16 if that is supported and measurably faster. A module that OpenVINO cannot
    convert falls back to torch with a warning, or fails with ``engine="openvino"``.

    Args:
        module: the module, or a function without arguments that returns it.
        example: input to trace with: an array, or a tuple of arrays. It determines dtypes and
            shapes, and OpenVINO's results are compared with torch's on it.
        preprocess: preprocessing of the first array, compiled into the model; the example is the
            input before it.
        engine: ``auto``, ``openvino`` or ``torch``.
        precision: ``auto``, ``fp32`` or ``bf16``. With ``auto``, both are timed on a CPU with
            bfloat16, since not all are faster with it; the choice is cached.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: concurrent calls; as many as threads by default.
        threads: CPU threads shared by all calls; by default `MLKIT_THREADS`, or all CPUs in the
            affinity mask of the process.
        dynamic_axes: axes whose length may differ from the example's.
        batch_sizes: compile for these lengths of axis 0 (and 1), and split each batch into them.
            Often faster than one executable for all lengths. The items of a batch must be
            independent: on CUDA, batches are padded to powers of two.
        cache_key: identifies the module's weights *and* code. With a key the compiled model is
            cached on disk; loading it neither calls ``module`` nor imports torch. See
            `mlkit.models.content_key`.

    Raises:
        DefinitionError: the arguments are invalid or incompatible.
        MlkitError: the module cannot be converted, and ``engine="openvino"``.
    """
    examples = example if isinstance(example, tuple) else (example,)
    inputs = tuple(ArraySpec.of(array, dynamic_axes) for array in examples)
    sizes = _sizes(batch_sizes, dynamic_axes)
    target = choose(
        engine=engine, device=device, precision=precision, workers=workers, threads=threads
    )
    source = _Source(module, examples, preprocess)
    if target.engine == "torch":
        return source.on_torch(target, inputs, independent=bool(sizes))
    try:
        timed = precision == "auto" and target.precision == "bf16"
        precisions: tuple[PrecisionUsed, ...] = ("fp32", "bf16") if timed else (target.precision,)
        return _on_openvino(source, target, precisions, inputs, sizes, cache_key)
    except MlkitError as error:
        if engine == "openvino":
            raise
        warnings.warn(f"falling back to torch, which is slower: {error.what}", stacklevel=2)
    return source.on_torch(
        choose(engine="torch", device="cpu", workers=workers, threads=threads),
        inputs,
        independent=bool(sizes),
    )


class _Source:
    """A module that is loaded on first use."""

    def __init__(
        self, module: Any, examples: tuple[Array, ...], preprocess: Preprocess | None
    ) -> None:
        if not is_module(module) and not callable(module):
            raise DefinitionError(
                "not a torch module",
                where="compile_model",
                expected="a torch.nn.Module, or a function that returns one",
                got=type(module).__name__,
            )
        self._module = module
        self.examples = examples
        self.preprocess = preprocess
        self._loaded: tuple[torch.nn.Module, Structure] | None = None

    def load(self) -> tuple[torch.nn.Module, Structure]:
        """Return the module with its preprocessing, and the structure of its results."""
        if self._loaded is None:
            module = self._module if is_module(self._module) else self._module()
            self._loaded = whole(module.eval(), self.preprocess), self._structure_of(module)
        return self._loaded

    def _structure_of(self, module: torch.nn.Module) -> Structure:
        import torch

        first, *rest = tensors(self.examples)
        if self.preprocess is not None:
            first = self.preprocess.apply(first)
        with torch.inference_mode():
            return Structure.unpack(module(first, *rest))[0]

    def on_torch(
        self, target: Target, inputs: tuple[ArraySpec, ...], *, independent: bool
    ) -> CompiledModel:
        from mlkit.models.torch_engine import TorchModel

        module, structure = self.load()
        return TorchModel(module, target, inputs, structure, independent=independent)


def _on_openvino(
    source: _Source,
    target: Target,
    precisions: tuple[PrecisionUsed, ...],
    inputs: tuple[ArraySpec, ...],
    sizes: tuple[int, ...],
    cache_key: str | None,
) -> CompiledModel:
    from mlkit.models.openvino_engine import OpenVinoModel, convert, fingerprint

    def build() -> OpenVinoModel:
        module, structure = source.load()
        model = convert(module, source.examples, inputs)
        variants = [
            OpenVinoModel.build(model, replace(target, precision=p), inputs, structure, sizes)
            for p in precisions
        ]
        return variants[0] if len(variants) == 1 else fastest(variants, source.examples)

    if cache_key is None:
        return build()
    key = cache.content_key(
        [FORMAT, fingerprint(), *precisions, cache_key]
        + [repr(part) for part in (inputs, sizes, source.preprocess)]
    )
    return _cached(key, build, lambda folder: OpenVinoModel.load(folder, target, inputs))


def _cached(
    key: str, build: Callable[[], Any], load: Callable[[Path], CompiledModel | None]
) -> CompiledModel:
    """Load a model from the cache; build and store it if it is missing or corrupt."""
    built: list[Any] = []

    def fill(folder: Path) -> None:
        built.append(build())
        built[0].save(folder)

    try:
        folder = cache.entry(key, fill)
    except OSError as error:
        warnings.warn(f"cannot cache the compiled model: {error}", stacklevel=4)
        return cast(CompiledModel, built[0] if built else build())
    if built:
        return cast(CompiledModel, built[0])
    loaded = load(folder)
    if loaded is not None:
        return loaded
    cache.discard(folder)
    return _cached(key, build, load)


def _sizes(batch_sizes: Sequence[int], dynamic_axes: Sequence[int]) -> tuple[int, ...]:
    if not batch_sizes:
        return ()
    if tuple(dynamic_axes) != (0,) or min(batch_sizes) < 1:
        raise DefinitionError(
            "batch_sizes= requires that only axis 0 varies",
            where="compile_model",
            expected="sizes of at least 1, and dynamic_axes=(0,)",
            got=f"{tuple(batch_sizes)}, dynamic_axes={tuple(dynamic_axes)}",
        )
    return tuple(sorted({1, *batch_sizes}))
