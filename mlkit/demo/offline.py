"""What one process can do without HTTP: with mlkit's executor, and with eager torch."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

from mlkit.execute import Executor, compile_graph
from mlkit.execute.offline import stream
from mlkit.tagging import tag

__all__ = ["Speed", "eager", "offline"]


@dataclass(frozen=True)
class Speed:
    """Pictures a second, and CPU milliseconds a picture of all cores."""

    rps: float
    cpu_ms: float


def offline(payloads: Sequence[dict[str, Any]], *, runs: int, seconds: float) -> list[Speed]:
    """The whole pipeline on bytes in memory: the executor and the steps that are served."""
    graph = tag.graph
    with Executor(compile_graph(graph)) as executor:
        stream(executor, payloads[:8], on_error="keep", progress=False)
        return [_timed(executor, payloads, seconds) for _ in range(runs)]


def _timed(executor: Executor, payloads: Sequence[dict[str, Any]], seconds: float) -> Speed:
    began, cpu, count = perf_counter(), process_time(), 0
    while perf_counter() - began < seconds:
        stream(executor, payloads, on_error="keep", progress=False)
        count += len(payloads)
    return Speed(count / (perf_counter() - began), (process_time() - cpu) / count * 1e3)


def eager(images: Sequence[bytes], *, seconds: float) -> Speed:
    """Pillow and eager torch in fp32, one picture after the other, as one writes it first."""
    import numpy as np
    import torch
    from PIL import Image

    from mlkit.models import efficientnet_lite0

    net = efficientnet_lite0()

    def classify(data: bytes) -> int:
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224))
        x = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float()
        return int(net((x - 127) / 128).argmax())

    with torch.inference_mode():
        classify(images[0])
        began, cpu, count = perf_counter(), process_time(), 0
        while perf_counter() - began < seconds:
            classify(images[count % len(images)])
            count += 1
    return Speed(count / (perf_counter() - began), (process_time() - cpu) / count * 1e3)


def median(speeds: Sequence[Speed]) -> Speed:
    """The median of each figure."""
    return Speed(
        statistics.median(s.rps for s in speeds), statistics.median(s.cpu_ms for s in speeds)
    )
