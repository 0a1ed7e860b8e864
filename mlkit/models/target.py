"""Choice of engine, device, precision and threads for this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mlkit.errors import DefinitionError
from mlkit.models.model import Target

__all__ = ["Device", "Engine", "Precision", "choose", "cpu_count"]

Engine = Literal["auto", "openvino", "torch"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Device = str


def cpu_count() -> int:
    """Return the number of CPUs this process may use.

    It is ``MLKIT_THREADS`` if set, else the size of the affinity mask. ``OMP_NUM_THREADS`` is
    ignored, since Ray sets it to 1 on any machine.
    """
    configured = os.environ.get("MLKIT_THREADS", "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cuda_available() -> bool:
    """Whether torch can use a CUDA device; imports torch only if there may be one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def cpu_has_bf16() -> bool:
    """Whether OpenVINO supports bfloat16 on this CPU; it is not necessarily faster."""
    from mlkit.models.openvino_engine import core

    return bool("BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def cuda_has_bf16() -> bool:
    """Whether the CUDA device supports bfloat16 natively."""
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
    """Resolve ``auto`` and defaults for this machine.

    A CUDA device is preferred and used with torch; otherwise OpenVINO runs on the CPU. The
    precision is bfloat16 if the hardware supports it natively, else fp32; the caller measures
    whether it is faster on a CPU.

    Raises:
        DefinitionError: the arguments are incompatible, or the device is not available.
    """
    _check_choice("engine", engine, ("auto", "openvino", "torch"))
    _check_choice("precision", precision, ("auto", "fp32", "bf16", "fp16", "int8"))
    if precision == "int8" and (engine == "torch" or device not in {"auto", "cpu"}):
        raise DefinitionError(
            "only OpenVINO on a CPU runs int8",
            where="compile_model",
            got=f"engine={engine!r}, device={device!r}",
            fix="omit precision=, engine= and device=",
        )
    if precision == "int8":
        engine = "openvino"
    device = _device(engine, device)
    chosen: Literal["openvino", "torch"] = (
        ("openvino" if device == "cpu" else "torch") if engine == "auto" else engine
    )
    if precision == "fp16" and device == "cpu":
        raise DefinitionError(
            "fp16 is for CUDA devices",
            where="compile_model",
            fix="omit precision= to use what is fastest here",
        )
    if precision == "auto":
        precision = "bf16" if _has_bf16(chosen, device) else "fp32"
    threads = cpu_count() if threads is None else threads
    return Target(
        engine=chosen,
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
            "unknown device",
            where="compile_model",
            expected="'auto', 'cpu', 'cuda' or 'cuda:1'",
            got=repr(device),
        )
    if engine == "openvino":
        raise DefinitionError(
            "OpenVINO does not run on CUDA devices",
            where="compile_model",
            fix="omit engine=, or pass engine='torch'",
        )
    if not cuda_available():
        raise DefinitionError(
            "no CUDA device is available to torch",
            where="compile_model",
            got=f"device={device!r}",
            fix="omit device= to use what is available",
        )
    return device


def _has_bf16(engine: Literal["openvino", "torch"], device: Device) -> bool:
    if device != "cpu":
        return cuda_has_bf16()
    return engine == "openvino" and cpu_has_bf16()


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DefinitionError(
            f"invalid {name}=",
            where="compile_model",
            expected=" or ".join(map(repr, choices)),
            got=repr(value),
        )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise DefinitionError(f"{name}= must be at least 1", where="compile_model", got=str(value))
    return value
