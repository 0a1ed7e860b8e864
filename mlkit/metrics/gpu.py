"""What this process takes of a GPU: memory, as torch says; time, as NVIDIA's library says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

__all__ = ["gpu_bytes", "gpu_share"]


def gpu_bytes() -> int | None:
    """Memory of a GPU that torch has taken in this process, in bytes; None where it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_reserved())


def gpu_share() -> float | None:
    """How much of the time of the GPU that torch uses was this process's lately.

    Replicas that share a GPU are told apart where the driver knows its processes by the numbers
    that they have here; in a container, where it does not, the GPU's time is divided evenly among
    all that compute on it.

    Returns:
        a share of one GPU; None where torch uses none, or ``nvidia-ml-py`` is not installed.
    """
    if gpu_bytes() is None:
        return None
    try:
        nvml = import_module("pynvml")
        return _share(nvml, _handle(nvml))
    except Exception:  # no library, no driver, no right to ask: whoever scales by it says so
        return None


def _handle(nvml: Any) -> Any:
    """The device that torch computes on, by its UUID: numbers depend on what is visible."""
    torch = sys.modules["torch"]
    nvml.nvmlInit()  # counts how often it is called, and costs nothing from the second time on
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def _share(nvml: Any, handle: Any) -> float:
    whole = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    samples: Sequence[Any] = ()
    with suppress(nvml.NVMLError):  # also: nobody has used it lately
        samples = nvml.nvmlDeviceGetProcessUtilization(handle, 0)
    pids = {one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    if os.getpid() not in pids:
        return float(whole / max(1, len(pids)))
    # The driver keeps samples for some seconds: of each process the latest counts, and of the
    # latest only their proportion, since each is over a time of its own.
    latest = {one.pid: one for one in sorted(samples, key=lambda one: one.timeStamp)}
    total = sum(one.smUtil for pid, one in latest.items() if pid in pids)
    if not total:
        return float(whole / len(pids))
    mine = latest.get(os.getpid())
    return float(whole * (mine.smUtil if mine else 0) / total)
