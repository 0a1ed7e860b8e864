"""What a process takes of a GPU, with stand-ins for torch and NVIDIA's library."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.metrics.gpu import gpu_bytes, gpu_share

ME, OTHER = os.getpid(), os.getpid() + 1


class NVMLError(Exception):
    """As the library has it."""


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A torch that has taken a part of a GPU."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        memory_reserved=lambda: 42_000_000,
        current_device=lambda: 0,
        get_device_properties=lambda number: SimpleNamespace(uuid="1234-5"),
    )
    made = SimpleNamespace(cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """NVIDIA's library, on a GPU that is busy for 80% of the time."""
    made = SimpleNamespace(NVMLError=NVMLError, asked=[], pids=[ME, OTHER], samples=[])

    def used(handle: str, since: int) -> list[Any]:
        if not made.samples:
            raise NVMLError("not found")
        return [SimpleNamespace(pid=p, timeStamp=at, smUtil=sm) for p, at, sm in made.samples]

    made.nvmlInit = lambda: None
    made.nvmlDeviceGetHandleByUUID = lambda uuid: made.asked.append(uuid) or uuid
    made.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=80)
    made.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        SimpleNamespace(pid=pid) for pid in made.pids
    ]
    made.nvmlDeviceGetProcessUtilization = used
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_a_process_without_a_gpu_takes_nothing(
    torch: Any, nvml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.cuda.is_initialized = lambda: False
    assert (gpu_bytes(), gpu_share()) == (None, None)
    monkeypatch.delitem(sys.modules, "torch")
    assert (gpu_bytes(), gpu_share()) == (None, None)


def test_a_torch_that_another_thread_is_importing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(
        "import sys\n"
        "import types\n"
        "from mlkit.metrics.gpu import gpu_bytes\n"
        "seen = gpu_bytes()\n"
        "cuda = types.SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True,\n"
        "                             memory_reserved=lambda: 7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    try:
        torch = importlib.import_module("torch")
        assert (torch.seen, gpu_bytes()) == (None, 7)
    finally:
        sys.modules.pop("torch", None)


def test_memory_is_known_without_the_library_and_time_is_not(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert (gpu_bytes(), gpu_share()) == (42_000_000, None)


def test_processes_that_share_it_are_told_apart(torch: Any, nvml: Any) -> None:
    nvml.samples = [(ME, 2, 60), (OTHER, 2, 20), (ME, 1, 0)]
    assert gpu_share() == pytest.approx(0.6)
    nvml.samples = [(OTHER, 2, 20)]
    assert gpu_share() == 0.0
    assert nvml.asked[0] == "GPU-1234-5"


def test_where_they_cannot_be_each_counts_the_same(torch: Any, nvml: Any) -> None:
    assert gpu_share() == pytest.approx(0.4)  # nobody was seen lately
    nvml.samples, nvml.pids = [(7, 2, 60)], [7, 8, 9, 10]  # numbers of another namespace
    assert gpu_share() == pytest.approx(0.2)
    nvml.pids = []
    assert gpu_share() == pytest.approx(0.8)
