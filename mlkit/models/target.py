"""Which engine, device, precision and threads a model gets on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mlkit.errors import DefinitionError
from mlkit.models.model import Target

__all__ = ["Device", "Engine", "Precision", "choose", "cpu_count"]

Engine = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "fp32", "bf16"]
Device = str


def cpu_count() -> int:
    """Return how many CPUs this process may use.

    ``MLKIT_THREADS`` where that is set; else the CPUs that the process may run on. Not
    ``OMP_NUM_THREADS``, which Ray sets to 1 whatever the machine.
    """
    given = os.environ.get("MLKIT_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_available() -> bool:
    """Whether torch can use a CUDA device; torch is only imported where there may be one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    if not any(Path(sign).exists() for sign in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def cpu_has_bf16() -> bool:
    """Whether OpenVINO says that this CPU computes in bfloat16; not, that it does so faster."""
    from mlkit.models.openvino_engine import core

    return bool("BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def cuda_has_bf16() -> bool:
    """Whether the CUDA device computes in bfloat16."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose(
    *,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int | None = None,
    threads: int | None = None,
) -> Target:
    """Fill in what was left to this machine.

    A CUDA device is taken where there is one, and torch runs it; else OpenVINO runs on the CPU.
    The precision is bfloat16 where the hardware has it and torch does not emulate it; fp32 else.
    Whether a CPU is faster in bfloat16 is left to measure.

    Raises:
        DefinitionError: the parts do not go together, or the device is not there.
    """
    _check_word("engine", engine, ("auto", "openvino", "torch"))
    _check_word("precision", precision, ("auto", "fp32", "bf16"))
    device = _device(engine, device)
    picked: Literal["openvino", "torch"] = (
        ("openvino" if device == "cpu" else "torch") if engine == "auto" else engine
    )
    if precision == "auto":
        precision = "bf16" if _has_bf16(picked, device) else "fp32"
    threads = cpu_count() if threads is None else threads
    return Target(
        engine=picked,
        device=device,
        precision=precision,
        workers=_positive("workers", threads if workers is None else workers),
        threads=_positive("threads", threads),
    )


def _device(engine: Engine, device: Device) -> Device:
    if device == "auto":
        return "cuda" if engine != "openvino" and cuda_available() else "cpu"
    if device == "cpu":
        return device
    if device.partition(":")[0] != "cuda":
        raise DefinitionError(
            "this device is not known",
            where="compile_model",
            expected="'auto', 'cpu', 'cuda' or 'cuda:1'",
            got=repr(device),
        )
    if engine == "openvino":
        raise DefinitionError(
            "OpenVINO does not run on CUDA devices",
            where="compile_model",
            fix="leave engine= out, or write engine='torch'",
        )
    if not cuda_available():
        raise DefinitionError(
            "there is no CUDA device here that torch can use",
            where="compile_model",
            got=f"device={device!r}",
            fix="leave device= out to use what there is",
        )
    return device


def _has_bf16(engine: Literal["openvino", "torch"], device: Device) -> bool:
    if device != "cpu":
        return cuda_has_bf16()
    return engine == "openvino" and cpu_has_bf16()


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise DefinitionError(
            f"{name}= is not one of those there are",
            where="compile_model",
            expected=" or ".join(map(repr, words)),
            got=repr(value),
        )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise DefinitionError(f"{name}= is at least 1", where="compile_model", got=str(value))
    return value
