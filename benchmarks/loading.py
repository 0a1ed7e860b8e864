"""Weights that processes share: mapped from a file, or read from Ray's object store."""

from __future__ import annotations

import multiprocessing
import os
import re
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mlkit.errors import MlkitError
from mlkit.load.analysis import ratio
from mlkit.models import load_weights, save_weights
from mlkit.models.model import Array

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch

__all__ = ["SIZES_MB", "measure"]

SIZES_MB = (20, 100, 400)
PROCESSES = 8
LAYER_MB = 4
WIDTH = 1024
START_S = 300.0
"""Time for processes to start, or to load a model, before that is an error."""


def measure(blocks: int, check: Callable[[], None], sizes_mb: Sequence[int]) -> dict[str, Any]:
    """Compare mapped weights with `torch.load`, and with Ray's object store.

    Each section has, by size in MB: milliseconds to load, the speedup over `torch.load`, and the
    memory that loading takes in 1 and in 8 processes, as growth of their proportional set size.

    Args:
        blocks: of each of the ways to load, by turns.
        check: raises where the user has interrupted.
        sizes_mb: sizes of the models.

    Raises:
        MlkitError: a process did not start or load in time.
    """
    section: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [_written(Path(folder) / f"{megabytes}", megabytes) for megabytes in sizes_mb]
        for file, megabytes in zip(files, sizes_mb, strict=True):
            section |= _times(file, megabytes, blocks, check)
        for name, load in (("pss", _mapped), ("torch_load_pss", _copied)):
            alone, together = (_grown_mb(load, files[-1], sizes_mb[-1], n) for n in (1, PROCESSES))
            section[f"{name}_{PROCESSES}_over_1"] = together / alone
            section[f"{name}_mb"] = {"1": alone, str(PROCESSES): together}
            check()
        with _ray() as store_pids:
            stored: list[Any] = []
            for file, megabytes in zip(files, sizes_mb, strict=True):
                section |= _object_store(file, megabytes, blocks, store_pids, stored)
                check()
    return section


def _network(megabytes: int) -> torch.nn.Module:
    from torch import nn

    layers = megabytes // LAYER_MB
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))


def _written(file: Path, megabytes: int) -> Path:
    """Write weights for each of the ways to load them."""
    import torch

    net = _network(megabytes)
    save_weights(net, file.with_suffix(".safetensors"))
    torch.save(net.state_dict(), file.with_suffix(".pt"))
    return file


def _mapped(file: Path, megabytes: int) -> torch.nn.Module:
    return load_weights(lambda: _network(megabytes), file.with_suffix(".safetensors"))


def _copied(file: Path, megabytes: int) -> torch.nn.Module:
    import torch

    net = _network(megabytes)
    net.load_state_dict(torch.load(file.with_suffix(".pt"), weights_only=True))
    return net.eval()


def _on_arrays(arrays: Mapping[str, Array], megabytes: int) -> torch.nn.Module:
    """Point a module at arrays, which are not copied."""
    import torch

    with torch.device("meta"):
        net = _network(megabytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are read-only
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    net.load_state_dict(weights, assign=True)
    return net.eval()


def _use(net: torch.nn.Module) -> None:
    import torch

    with torch.inference_mode():
        net(torch.zeros(1, WIDTH))


def _times(file: Path, megabytes: int, blocks: int, check: Callable[[], None]) -> dict[str, Any]:
    """Seconds to load, mapped and with `torch.load` by turns."""
    section: dict[str, Any] = {}
    times: dict[Any, list[float]] = {_mapped: [], _copied: []}
    used: dict[Any, list[float]] = {_mapped: [], _copied: []}
    for _ in range(blocks + 1):  # the first fills the page cache
        for load in times:
            began = time.perf_counter()
            net = load(file, megabytes)
            times[load].append(time.perf_counter() - began)
            _use(net)
            used[load].append(time.perf_counter() - began)
            del net  # else the next load would be timed with its release
        check()
    for name, of in (("speedup", times), ("speedup_with_first_call", used)):
        section[f"{name}_{megabytes}mb"] = _ratio(of[_copied][1:], of[_mapped][1:])
    section[f"load_ms_{megabytes}mb"] = 1e3 * median(times[_mapped][1:])
    return section


def _ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    gain = ratio(a, b)
    return {"value": gain.value, "low": gain.low, "high": gain.high}


# ---- memory -----------------------------------------------------------------------------------


def _grown_mb(load: Callable[..., Any], file: Path, megabytes: int, count: int) -> float:
    """Growth of the proportional set size of some processes by loading, all together."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=_hold, args=(load, file, megabytes, theirs)) for _, theirs in pipes
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()  # so that the end of a process is an EOFError
    try:
        totals = []
        for event in ("start", "load a model"):
            for ours, _ in pipes:
                if not ours.poll(START_S):
                    raise MlkitError(f"a process did not {event} within {START_S:g} s")
                ours.recv()
            totals.append(_pss_mb(process.pid for process in processes))
            for ours, _ in pipes:
                ours.send(None)
    finally:
        for process in processes:
            process.join(30)
            process.kill()
    return totals[1] - totals[0]


def _hold(load: Callable[..., Any], file: Path, megabytes: int, parent: Connection) -> None:
    """Load a model when told so, run it, and keep it until told so."""
    import torch

    torch.set_num_threads(1)
    _use(_network(LAYER_MB))
    parent.send("ready")
    parent.recv()
    net = load(file, megabytes)
    _use(net)
    parent.send("loaded")
    parent.recv()


def _pss_mb(pids: Iterator[int | None] | Sequence[int]) -> float:
    """Proportional set size of processes, all together."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        line = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        assert line is not None
        total += int(line[1])
    return total / 1e3


# ---- Ray's object store -----------------------------------------------------------------------


@contextmanager
def _ray() -> Iterator[list[int]]:
    """Run a Ray of its own; the processes that map its store without reading models from it."""
    # Ray reads them when it is imported; without a token, it writes one to the home directory.
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0"
    )
    import psutil
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=1,
            object_store_memory=2_000_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )
    except Exception as error:  # it is of no class of Ray's
        raise MlkitError(f"Ray did not start: {error}", fix="end what else runs here") from error
    try:
        children = psutil.Process().children(recursive=True)
        yield [os.getpid(), *(child.pid for child in children if child.name() == "raylet")]
    finally:
        ray.shutdown()


class _Reader:
    """A process that reads models from the store."""

    def start(self) -> int:
        import torch

        torch.set_num_threads(1)
        _use(_network(LAYER_MB))
        return os.getpid()

    def times(
        self, stored: Sequence[Any], file: Path, megabytes: int, blocks: int
    ) -> dict[str, list[float]]:
        """Seconds to load, mapped and from the store by turns; the first warms up."""
        times: dict[str, list[float]] = {"mapped": [], "store": []}
        loads: dict[str, Callable[[], Any]] = {
            "mapped": lambda: _mapped(file, megabytes),
            "store": lambda: self._stored(stored, megabytes),
        }
        for _ in range(blocks + 1):
            for name, load in loads.items():
                began = time.perf_counter()
                net = load()
                times[name].append(time.perf_counter() - began)
                _use(net)
                del net
        return {name: seconds[1:] for name, seconds in times.items()}

    def hold(self, stored: Sequence[Any], megabytes: int) -> None:
        """Load a model, run it, and keep it."""
        self._net = self._stored(stored, megabytes)
        _use(self._net)

    @staticmethod
    def _stored(stored: Sequence[Any], megabytes: int) -> torch.nn.Module:
        import ray

        return _on_arrays(ray.get(stored[0]), megabytes)


def _object_store(
    file: Path, megabytes: int, blocks: int, store_pids: Sequence[int], stored: list[Any]
) -> dict[str, Any]:
    """Compare weights that are put into Ray's object store once with mapped ones.

    The memory is that of all processes that map the store: the readers, this one and Ray's own.
    What is ``stored`` stays there: the store would use released memory again, and not grow.
    """
    import ray

    net = _mapped(file, megabytes)
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    before = _pss_mb(store_pids)
    began = time.perf_counter()
    stored.append(ray.put(weights))
    put_s = time.perf_counter() - began
    put_mb = _pss_mb(store_pids) - before
    grown, times = {}, {}
    reader_class: Any = ray.remote(num_cpus=0)(_Reader)
    for count in (1, PROCESSES):
        readers = [reader_class.remote() for _ in range(count)]
        try:
            pids = ray.get([reader.start.remote() for reader in readers], timeout=START_S)
            before = _pss_mb([*store_pids, *pids])
            # In a list, a reader gets the reference, not the arrays.
            calls = [reader.hold.remote(stored[-1:], megabytes) for reader in readers]
            ray.get(calls, timeout=START_S)
            grown[count] = put_mb + _pss_mb([*store_pids, *pids]) - before
            if count == 1:
                call = readers[0].times.remote(stored[-1:], file, megabytes, blocks)
                times = ray.get(call, timeout=START_S)
        except ray.exceptions.GetTimeoutError:
            raise MlkitError(
                f"{count} readers of {megabytes} MB did not start or load within {START_S:g} s",
                where="Ray's object store",
            ) from None
        finally:
            for reader in readers:
                ray.kill(reader)
    return {
        f"store_put_ms_{megabytes}mb": 1e3 * put_s,
        f"store_load_ms_{megabytes}mb": 1e3 * median(times["store"]),
        f"store_over_mapped_{megabytes}mb": _ratio(times["store"], times["mapped"]),
        f"store_pss_{PROCESSES}_over_1_{megabytes}mb": grown[PROCESSES] / grown[1],
        f"store_pss_mb_{megabytes}mb": {str(count): mb for count, mb in grown.items()},
    }
