"""What pools of models and banks of heads are claimed to do, measured."""

from __future__ import annotations

import shutil
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mlkit import models
from mlkit.errors import MlkitError
from mlkit.models import Artefact, HeadBank, ModelPool
from mlkit.models.model import Array

__all__ = ["lite0", "measure_heads", "measure_pool"]

MODELS = 40
ROOM = 8
REQUESTS = 300
THREADS = 4
ZIPF = 1.0
HEADS = 200
CLASSES = 10
ROUNDS = 40
BATCH = 8
PICTURE = np.zeros((1, 3, 64, 64), np.float32)


def lite0() -> torch.nn.Module:
    """EfficientNet-Lite0 without its weights."""
    from efficientnet_lite_pytorch import EfficientNet

    module: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module


def measure_pool(store: Path) -> dict[str, Any]:
    """Hit rate of a pool over that of an ideal LRU cache, and memory beyond its budget."""
    ids = [f"model-{number}" for number in range(MODELS)]
    models.save(lite0(), ids[0], example=PICTURE, builder=lite0, store=store)
    for id in ids[1:]:
        shutil.copytree(store / ids[0], store / id)
    popularity = 1 / np.arange(1, MODELS + 1) ** ZIPF
    drawn = np.random.default_rng(0).choice(MODELS, REQUESTS, p=popularity / popularity.sum())
    requests = [ids[number] for number in drawn]
    live: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
    most = failed = 0
    arrived: list[str] = []  # threads may change the order

    def load(id: str) -> Artefact:
        nonlocal most
        artefact = models.load(id, store=store)
        assert artefact.module is not None
        live.add(artefact.module)
        most = max(most, len(live))
        return artefact

    size = models.load(ids[0], store=store).nbytes
    pool = ModelPool(load, budget_bytes=ROOM * size, size=lambda id: size)

    def answer(id: str) -> None:
        nonlocal failed
        arrived.append(id)
        try:
            with pool.use(id) as model:
                model(PICTURE)
                del model
        except MlkitError:
            failed += 1

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(answer, requests))
    took_s = time.perf_counter() - began
    counts, ideal = pool.counts(), ideal_hits(arrived, ROOM)
    return {
        "hit_rate": counts["hits"] / REQUESTS,
        "lru_hit_rate": ideal / REQUESTS,
        "hit_rate_over_lru": counts["hits"] / ideal,
        "failed": failed,
        "max_over_budget_models": max(0, most - ROOM),
        "evictions": counts["evictions"],
        "load_s": float(pool.status()["load_s"].median()),
        "requests_per_s": REQUESTS / took_s,
        "model_mb": size / 1e6,
    }


def ideal_hits(requests: Iterable[str], room: int) -> int:
    """Hits of a cache that drops the least recently used, one request after the other."""
    cached: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for id in requests:
        if id in cached:
            hits += 1
            cached.move_to_end(id)
        else:
            cached[id] = None
            if len(cached) > room:
                cached.popitem(last=False)
    return hits


class _Trunk(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net: Any = lite0()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.net.extract_features(x).mean((2, 3))
        return features


def measure_heads() -> dict[str, Any]:
    """Throughput with a bank of heads over that with one head, on the features of Lite0."""
    pictures = np.random.default_rng(0).normal(size=(BATCH, 3, 224, 224)).astype(np.float32)
    trunk = models.compile_model(_Trunk().eval(), example=pictures)
    heads = {f"shop-{i}": torch.nn.Linear(1280, CLASSES) for i in range(HEADS)}
    bank = HeadBank(heads)
    first = bank.weight[0].T.copy(), bank.bias[0].copy()
    batches = np.random.default_rng(0).choice(list(heads), (ROUNDS, BATCH)).tolist()
    features = _features(trunk, pictures)

    def with_one(_: Sequence[str]) -> None:
        _features(trunk, pictures) @ first[0] + first[1]

    def with_bank(ids: Sequence[str]) -> None:
        bank(_features(trunk, pictures), ids)

    one_s, bank_s, bank_alone_s, one_alone_s = _by_turns(
        batches,
        with_one,
        with_bank,
        lambda ids: bank(features, ids),
        lambda _: features @ first[0] + first[1],
    )
    return {
        "over_one": median(one_s) / median(bank_s),
        "heads": HEADS,
        "batch_ms": {"one": 1e3 * median(one_s), "bank": 1e3 * median(bank_s)},
        "head_us": {"one": 1e6 * median(one_alone_s), "bank": 1e6 * median(bank_alone_s)},
        "bank_mb": bank.nbytes / 1e6,
    }


def _features(trunk: models.CompiledModel, pictures: Array) -> Array:
    features = trunk(pictures)
    assert isinstance(features, np.ndarray)
    return features


def _by_turns(
    batches: Sequence[Sequence[str]], *calls: Callable[[Sequence[str]], Any]
) -> list[list[float]]:
    """Seconds of each call with each batch, interleaved, after three to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for batch in (*batches[:3], *batches):
        for call, durations in zip(calls, times, strict=True):
            began = time.perf_counter()
            call(batch)
            durations.append(time.perf_counter() - began)
    return [durations[3:] for durations in times]
