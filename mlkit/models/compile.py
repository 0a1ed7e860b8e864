"""The one door for models: a torch module goes in, something fast comes out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import cache
from mlkit.models.model import (
    Array,
    ArraySpec,
    CompiledModel,
    PrecisionUsed,
    Structure,
    Target,
)
from mlkit.models.target import Device, Engine, Precision, choose
from mlkit.models.timing import quickest
from mlkit.models.whole import Preprocess, is_module, tensors, whole

if TYPE_CHECKING:
    import torch

__all__ = ["compile_model"]

FORMAT = "2"
"""Changes with what is cached, so that old entries are not read."""


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
    """Compile a torch module for this machine; what comes back takes and returns numpy arrays.

    A CUDA device is used where there is one, through torch; else OpenVINO on the CPU, in bfloat16
    where the CPU has that and it proves faster. A module that OpenVINO cannot convert is run by
    torch, with a warning (with ``engine="openvino"`` it is an error).

    Args:
        module: the module, or a function without arguments that returns it.
        example: what it is called with: an array, or a tuple of arrays. Types and shapes are
            taken from it, and OpenVINO's results are compared with torch's on it.
        preprocess: what to do to the first array before the module sees it; the example is then
            an array as it is before that.
        engine: ``auto``, ``openvino`` or ``torch``.
        precision: ``auto``, ``fp32`` or ``bf16``. With ``auto``, a CPU that has bfloat16 runs the
            example in both: only some are quicker in it. What was found is kept in the cache.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: calls that run side by side; as many as threads by default.
        threads: CPU threads shared by all calls; by default `MLKIT_THREADS`, or every CPU that
            this process may use.
        dynamic_axes: axes of the arrays whose length may differ from the example's.
        batch_sizes: compile for these lengths of axis 0 (and 1) and cut each batch into pieces of
            them. Often quicker than one executable for any length. It says that the items of a
            batch do not concern one another: on CUDA, batches are filled up to powers of two.
        cache_key: what identifies the module: its weights *and* its code. With it the compiled
            model is kept on disk, and at the next start ``module`` is not called, nor torch
            imported. `mlkit.models.content_key` makes one of files.

    Raises:
        DefinitionError: the arguments do not go together.
        MlkitError: ``engine="openvino"`` and the module cannot be converted.
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
        warnings.warn(f"torch runs this model, more slowly: {error.what}", stacklevel=2)
    return source.on_torch(
        choose(engine="torch", device="cpu", workers=workers, threads=threads),
        inputs,
        independent=bool(sizes),
    )


class _Source:
    """A module that is loaded when it is first needed."""

    def __init__(
        self, module: Any, examples: tuple[Array, ...], preprocess: Preprocess | None
    ) -> None:
        if not is_module(module) and not callable(module):
            raise DefinitionError(
                "this is no torch module",
                where="compile_model",
                expected="a torch.nn.Module, or a function that returns one",
                got=type(module).__name__,
            )
        self._given = module
        self.examples = examples
        self.preprocess = preprocess
        self._loaded: tuple[torch.nn.Module, Structure] | None = None

    def load(self) -> tuple[torch.nn.Module, Structure]:
        """The module with its preprocessing, and how it hands out its results."""
        if self._loaded is None:
            module = self._given if is_module(self._given) else self._given()
            self._loaded = whole(module.eval(), self.preprocess), self._try(module)
        return self._loaded

    def _try(self, module: torch.nn.Module) -> Structure:
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
    from mlkit.models.openvino_engine import OpenVinoModel, convert, core, fingerprint

    core()

    def build() -> OpenVinoModel:
        module, structure = source.load()
        model = convert(module, source.examples, inputs)
        made = [
            OpenVinoModel.build(model, replace(target, precision=one), inputs, structure, sizes)
            for one in precisions
        ]
        return made[0] if len(made) == 1 else quickest(made, source.examples)

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
    """What is in the cache, or what is built and then kept there."""
    built: list[Any] = []

    def fill(folder: Path) -> None:
        built.append(build())
        built[0].save(folder)

    try:
        folder = cache.entry(key, fill)
    except OSError as error:
        warnings.warn(f"the compiled model cannot be kept: {error}", stacklevel=4)
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
            "batch_sizes= are lengths of axis 0, and the only thing that varies",
            where="compile_model",
            expected="sizes of at least 1, and dynamic_axes=(0,)",
            got=f"{tuple(batch_sizes)}, dynamic_axes={tuple(dynamic_axes)}",
        )
    return tuple(sorted({1, *batch_sizes}))
