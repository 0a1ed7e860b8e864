"""Compilation of torch modules for the present hardware."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlkit.errors import DefinitionError, MlkitError, entry_point
from mlkit.models import cache
from mlkit.models.model import Array, ArraySpec, CompiledModel, Outputs, PrecisionUsed, Target
from mlkit.models.quantise import quantise
from mlkit.models.source import Source
from mlkit.models.target import Device, Engine, Precision, choose
from mlkit.models.timing import fastest
from mlkit.models.whole import Preprocess

if TYPE_CHECKING:
    import torch

__all__ = ["compile_model"]

FORMAT = "4"
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
    calibration: Array | tuple[Array, ...] | None = None,
    agreement: Callable[[Outputs, Outputs], bool] | None = None,
    cache_key: str | None = None,
) -> CompiledModel:
    """Compile a torch module for this machine; the result takes and returns numpy arrays.

    If a CUDA device is available, torch runs the module there; otherwise OpenVINO runs it on the
    CPU, in bfloat16 or int8 if these are possible, measurably faster and give the same results. A
    module that cannot be exported (`torch.export`) or converted falls back to torch with a warning,
    or fails with ``engine="openvino"``.

    Args:
        module: the module, or a function without arguments that returns it.
        example: input to export with: an array, or a tuple of arrays. It determines dtypes and
            shapes, and OpenVINO's results are compared with torch's on it.
        preprocess: preprocessing of the first array, compiled into the model; the example is the
            input before it.
        engine: ``auto``, ``openvino`` or ``torch``.
        precision: ``auto``, ``fp32``, ``bf16``, ``int8`` or, on CUDA, ``fp16``. With ``auto``,
            OpenVINO's builds in fp32, in bf16 on a CPU that has it, and in int8 if there is
            ``calibration`` are timed alternately; the fastest that agrees with fp32 is taken,
            and the choice is cached. ``refused`` of the result says which do not agree. CUDA
            devices without bfloat16 compute in fp16 on request only: its range is narrow.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: concurrent calls; as many as threads by default.
        threads: CPU threads shared by all calls; by default `MLKIT_THREADS`, or all CPUs in the
            affinity mask of the process.
        dynamic_axes: axes whose length may differ from the example's.
        batch_sizes: compile for these lengths of axis 0 (and 1), and split each batch into them.
            Often faster than one executable for all lengths. OpenVINO times each length, and
            leaves out those that are not faster than shorter ones. The items of a batch must be
            independent: on CUDA, batches are padded to powers of two.
        calibration: inputs like the example, with 100 to 300 representative items along axis 0, to
            choose the ranges of int8 with. Needs nncf, once: the result is cached.
        agreement: is called with the outputs of fp32 and of another precision on the calibration
            inputs, or on the example, and returns whether they agree. By default the best class is
            the same in 99% of the items for outputs [N, classes], and otherwise outputs differ by
            at most 5% in norm; the example should then have several realistic items.
        cache_key: identifies the module's weights *and* code, and ``agreement``. With a key the
            compiled model is cached on disk; loading it neither calls ``module`` nor imports torch.
            See `mlkit.models.content_key`.

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
    source = Source(module, examples, preprocess)
    samples = (
        calibration if calibration is None or isinstance(calibration, tuple) else (calibration,)
    )
    if precision == "int8" and samples is None:
        raise DefinitionError(
            "int8 needs inputs to choose its ranges with",
            where="compile_model",
            expected="calibration=, 100 to 300 representative inputs along axis 0",
        )
    if target.engine == "torch":
        return source.on_torch(target, inputs, independent=bool(sizes))
    precisions: tuple[PrecisionUsed, ...] = (target.precision,)
    if precision == "auto":
        half = ("bf16",) if target.precision == "bf16" else ()
        precisions = ("fp32", *half, *(("int8",) if samples is not None else ()))
    try:
        return _on_openvino(
            source, target, precisions, inputs, sizes, samples, agreement, cache_key
        )
    except MlkitError as error:
        if engine == "openvino":
            raise
        warnings.warn(f"falling back to torch, which is slower: {error.what}", stacklevel=2)
    return source.on_torch(
        choose(engine="torch", device="cpu", workers=workers, threads=threads),
        inputs,
        independent=bool(sizes),
    )


def _on_openvino(
    source: Source,
    target: Target,
    precisions: tuple[PrecisionUsed, ...],
    inputs: tuple[ArraySpec, ...],
    sizes: tuple[int, ...],
    samples: tuple[Array, ...] | None,
    agreement: Callable[[Outputs, Outputs], bool] | None,
    cache_key: str | None,
) -> CompiledModel:
    from mlkit.models.openvino_engine import OpenVinoModel, convert, fingerprint

    def build() -> OpenVinoModel:
        module, structure = source.load()
        model = convert(module, source.examples, inputs)
        quantised = quantise(model, samples or ()) if "int8" in precisions else model
        variants = [
            OpenVinoModel.build(
                quantised if p == "int8" else model,
                replace(target, precision=p),
                inputs,
                structure,
                sizes,
            )
            for p in precisions
        ]
        compared = samples or source.examples
        best = variants[0]
        if len(variants) > 1:
            best = fastest(
                variants, source.examples, differs=lambda a, b: _differs(a, b, compared, agreement)
            )
        return best.with_useful_sizes(source.examples)

    if cache_key is None:
        return build()
    parts: list[str | bytes] = [FORMAT, fingerprint(), *precisions, cache_key]
    if "int8" in precisions:
        parts += [array.tobytes() for array in samples or ()]
    key = cache.content_key(parts + [repr(part) for part in (inputs, sizes, source.preprocess)])
    return _cached(key, build, lambda folder: OpenVinoModel.load(folder, target, inputs))


def _differs(
    exact: CompiledModel,
    other: CompiledModel,
    inputs: tuple[Array, ...],
    agreement: Callable[[Outputs, Outputs], bool] | None,
) -> str:
    """Why the results of two models do not agree; empty if they do."""
    from mlkit.models.agreement import compare_results

    wanted, got = (model.flat(inputs) for model in (exact, other))
    if agreement is None:
        return compare_results(wanted, got).fails
    structure = exact.structure
    return "" if agreement(structure.pack(wanted), structure.pack(got)) else "agreement= refuses it"


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
