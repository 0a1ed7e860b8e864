"""How fast pictures are tagged without a server: the pipeline at full speed, and eager torch."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

from mlkit.pipelines import Pipeline

__all__ = ["Block", "Eager", "by_turns", "median_rate", "run_eager", "run_offline"]


class Block(NamedTuple):
    """One stretch of work in this process.

    Attributes:
        pictures: how many were done.
        wall_s: seconds it took.
        cpu_s: seconds of CPU that this process took, on all cores.
    """

    pictures: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Pictures per second."""
        return self.pictures / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU a picture."""
        return 1e3 * self.cpu_s / self.pictures


def run_offline(
    pipeline: Pipeline[..., Any], payloads: Sequence[dict[str, Any]], seconds: float
) -> Block:
    """`Pipeline.map` over the payloads again and again: the executor and steps that are served."""
    cpu, began = process_time(), perf_counter()
    done = pipeline.map(_again(payloads, seconds), progress=False)
    return Block(len(done), perf_counter() - began, process_time() - cpu)


def run_eager(tagger: Callable[[bytes], int], pictures: Sequence[bytes], seconds: float) -> Block:
    """One picture after the other through a function."""
    cpu, began, done = process_time(), perf_counter(), 0
    for picture in _again(pictures, seconds):
        tagger(picture)
        done += 1
    return Block(done, perf_counter() - began, process_time() - cpu)


def _again(things: Sequence[Any], seconds: float) -> Iterator[Any]:
    until = perf_counter() + seconds
    return itertools.takewhile(lambda _: perf_counter() < until, itertools.cycle(things))


def by_turns(
    work: Sequence[Callable[[], Block]], rounds: int, check: Callable[[], None] = lambda: None
) -> list[list[Block]]:
    """Run blocks by turns, A, B, A, B and so on: what drifts slowly meets all alike."""
    blocks: list[list[Block]] = [[] for _ in work]
    for _ in range(rounds):
        for measured, run in zip(blocks, work, strict=True):
            measured.append(run())
            check()
    return blocks


def median_rate(blocks: Sequence[Block]) -> float:
    """Median of the blocks' rates, pictures per second."""
    return median(block.rate for block in blocks)


class Eager:
    """EfficientNet-Lite0 as most people first run it: Pillow, then torch, eager, in fp32."""

    def __init__(self) -> None:
        from mlkit.models import efficientnet_lite0

        self.net = efficientnet_lite0()

    def __call__(self, data: bytes) -> int:
        """Index of the most likely ImageNet label."""
        import numpy as np
        import PIL.Image
        import torch

        with PIL.Image.open(io.BytesIO(data)) as file:
            picture = file.convert("RGB").resize((224, 224), PIL.Image.Resampling.BILINEAR)
        pixels = (np.asarray(picture, np.float32) - 127.0) / 128.0
        with torch.inference_mode():
            logits = self.net(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        return int(logits.argmax())
