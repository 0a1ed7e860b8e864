"""The process that maps a dataset: ``python -m mlkit.serving.port.dataset FOLDER``.

Ray Data reads, runs workers, writes, and keeps which rows are done. Started by
`mlkit.serving.kernel.dataset`, which reads JSON lines from its output, and whose end closes its
input.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import MlkitError
from mlkit.execute.cores import cores
from mlkit.serving.control import folders, watchdog
from mlkit.serving.control.cause import cause_in
from mlkit.serving.control.dataset import BUNDLE, JOB, DatasetJob, RowsDone
from mlkit.serving.port import forkserver
from mlkit.serving.port.cluster import join_ray, start_local_ray
from mlkit.serving.replica.blocks import BlockMapper

__all__ = ["main"]

OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local Ray. Blocks that wait between reading, workers and writing are there."""

MAX_BLOCK_BYTES = 32 * 2**20
"""Blocks of pictures have fewer rows than a batch."""

SPARE_CPUS = 2
"""Of a local Ray: reading and writing need little, and would wait for workers that have all."""

REPORT_S = 0.5
STOP_S = 30.0


class _Worker:
    """An actor that runs the pipeline, with its resources, on one block after the other."""

    def __init__(self, bundle: Any, job: DatasetJob, threads: int) -> None:
        self._mapper = BlockMapper.in_worker(
            memoryview(bundle), job.origin, job.id, job.columns, threads
        )

    def __call__(self, block: Any) -> Any:
        return self._mapper(block)


def main(argument: str) -> None:
    """Map the dataset that the folder describes."""
    folder = Path(argument)
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print belongs into the log

    def say(**message: Any) -> None:
        messages.write(json.dumps(message) + "\n")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_input, daemon=True).start()
    job = DatasetJob.model_validate_json((folder / JOB).read_text())
    guard = watchdog.start(folder)
    status = 0
    try:
        with forkserver.running(folder) if job.address == "local" else nullcontext():
            _start_ray(job, folder / "ray")
            _map(job, np.fromfile(folder / BUNDLE, np.uint8), say)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        traceback.print_exc()
        say(error=_cause(error))
        status = 1
    finally:
        _stop(folder)
        guard.terminate()
        guard.wait()
    messages.close()
    sys.exit(status)


def _cause(error: Exception) -> str:
    if isinstance(error, MlkitError):
        return error.what
    if "creation task" in str(error):  # a loader has raised: the process was not killed
        return cause_in(str(error))
    return cause_in("".join(traceback.format_exception_only(error)))


def _stop_with_input() -> None:
    """Interrupt this process when the kernel ends, which closes the pipe."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when Python ends
        pass
    signal.raise_signal(signal.SIGINT)


def _start_ray(job: DatasetJob, folder: Path) -> None:
    if job.address == "local":
        start_local_ray(OBJECT_STORE_BYTES, folder, cores() + SPARE_CPUS)
    else:
        join_ray(job.address)


def _stop(folder: Path) -> None:
    import ray

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it is already ending
    watchdog.limit(STOP_S)
    ray.shutdown()
    watchdog.sweep(folder.name)
    folders.remove(folder)


def _map(job: DatasetJob, bundle: Any, say: Callable[..., None]) -> None:
    """Run the pipeline on all rows that are not done, and report how many are."""
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = MAX_BLOCK_BYTES
    # Each file of results is complete, and its rows done, or it is deleted when the job resumes.
    context.checkpoint_config = CheckpointConfig(
        job.id, job.done, delete_checkpoint_on_success=False
    )
    threads = math.ceil(job.num_cpus) + 1
    results = (
        _rows(job)
        .repartition(target_num_rows_per_block=job.batch_size, strict=True)
        .map_batches(
            _Worker,
            fn_constructor_args=(bundle, job, threads),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=job.workers),
            num_cpus=job.num_cpus,
            num_gpus=job.num_gpus,
        )
    )
    ended = threading.Event()
    reporter = threading.Thread(target=_report, args=(RowsDone(job.done), ended, say))
    reporter.start()
    try:
        results.write_parquet(job.results)
    finally:
        ended.set()
        reporter.join()


def _rows(job: DatasetJob) -> Any:
    import ray.data

    needed = list(dict.fromkeys([job.id, *job.columns.values()]))
    if job.parquet:
        return ray.data.read_parquet(job.source, columns=needed)
    return ray.data.read_binary_files(job.source, include_paths=True)


def _report(done: RowsDone, ended: threading.Event, say: Callable[..., None]) -> None:
    last, over = -1, False
    while not over:
        over = ended.wait(REPORT_S)
        count = last
        with suppress(OSError):  # of a file that is being renamed
            count = done()
        if count != last:
            say(done=count)
            last = count


if __name__ == "__main__":
    main(sys.argv[1])
