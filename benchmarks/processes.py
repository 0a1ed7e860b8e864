"""The limit of a machine: the tagging steps as plain functions, in as many processes as cores.

Nothing of mlkit's executor is in them, and no interpreter is shared.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from time import perf_counter, process_time

from mlkit.execute.cores import cores
from tools.demo.offline import Block

__all__ = ["BareProcesses", "bare_processes", "merged"]

START_TIMEOUT_S = 120.0
STEPS_APART = 17
"""Images between the first ones of two processes, so that they don't work on the same ones."""


class BareProcesses:
    """Processes that wait to work on the images; see `bare_processes`."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def run(self, seconds: float) -> Block:
        """Tag images in all processes for some seconds.

        Raises:
            EOFError: a process has ended.
        """
        for pipe in self._pipes:
            pipe.send(seconds)
        return merged([pipe.recv() for pipe in self._pipes])


def merged(blocks: Sequence[Block]) -> Block:
    """What processes did at the same time, as one block."""
    return Block(
        sum(block.pictures for block in blocks),
        max(block.wall_s for block in blocks),
        sum(block.cpu_s for block in blocks),
    )


@contextmanager
def bare_processes(images: Sequence[bytes], number: int | None = None) -> Iterator[BareProcesses]:
    """Processes with the steps loaded and warm, while the block runs.

    Args:
        images: files that they tag.
        number: of processes; by default one per core.

    Raises:
        TimeoutError: one of them was not ready in time.
        EOFError: one of them has ended.
    """
    context = multiprocessing.get_context("spawn")
    started, pipes = [], []
    try:
        for index in range(number or cores()):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, images, index), daemon=True)
            process.start()
            theirs.close()
            started.append(process)
            pipes.append(ours)
        for pipe in pipes:
            if not pipe.poll(START_TIMEOUT_S):
                raise TimeoutError(f"a bare process was not ready in {START_TIMEOUT_S:.0f} s")
            pipe.recv()
        yield BareProcesses(pipes)
    finally:
        for process in started:
            process.terminate()
            process.join()


def _work(pipe: Connection, images: Sequence[bytes], index: int) -> None:
    from benchmarks.peers.tagger import Tagger

    tagger = Tagger()
    mine = itertools.islice(itertools.cycle(images), index * STEPS_APART, None)
    for image in itertools.islice(mine, 8):
        tagger(image)
    pipe.send(None)
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        done, cpu, began = 0, process_time(), perf_counter()
        while perf_counter() - began < seconds:
            tagger(next(mine))
            done += 1
        pipe.send(Block(done, perf_counter() - began, process_time() - cpu))
