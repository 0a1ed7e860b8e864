"""GPU use of this process: memory from torch, utilization from NVML."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

__all__ = ["gpu_bytes", "gpu_share"]


def gpu_bytes() -> int | None:
    """GPU memory reserved by torch in this process, in bytes; None without a GPU."""
    torch = _imported_torch()
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_reserved())


def gpu_share() -> float | None:
    """Recent utilization by this process of the GPU that torch uses.

    Replicas that share a GPU are distinguished by process id. In a container with its own PID
    namespace, the driver reports other ids, and the GPU's utilization is divided evenly among all
    processes that compute on it.

    Returns:
        a share of one GPU; None if torch uses none, or ``nvidia-ml-py`` is not installed.
    """
    if gpu_bytes() is None:
        return None
    try:
        nvml = import_module("pynvml")
        return _share(nvml, _handle(nvml))
    except Exception:  # no library, driver or permission: `on_gpu` reports missing readings
        return None


def _imported_torch() -> Any:
    """The module torch; None before another thread's import of it has finished.

    Until then, its attributes are missing, and accessing one raises.
    """
    torch = sys.modules.get("torch")
    initializing = getattr(getattr(torch, "__spec__", None), "_initializing", False)
    return None if initializing else torch


def _handle(nvml: Any) -> Any:
    """NVML's handle of torch's device, by UUID: indices depend on the visible devices."""
    torch = sys.modules["torch"]
    nvml.nvmlInit()  # reference-counted: free from the second call on
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def _share(nvml: Any, handle: Any) -> float:
    whole = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    samples: Sequence[Any] = ()
    with suppress(nvml.NVMLError):  # also raised if the GPU was idle
        samples = nvml.nvmlDeviceGetProcessUtilization(handle, 0)
    pids = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    if os.getpid() not in pids:
        return float(whole / max(1, len(pids)))
    # The driver keeps samples for some seconds. Only the latest of each process counts, relative to
    # the others, since each sample covers a different interval.
    latest = {sample.pid: sample for sample in sorted(samples, key=lambda s: s.timeStamp)}
    total = sum(sample.smUtil for pid, sample in latest.items() if pid in pids)
    if not total:
        return float(whole / len(pids))
    own = latest.get(os.getpid())
    return float(whole * (own.smUtil if own else 0) / total)
