"""What is claimed about models, measured: ``python -m benchmarks models --photos folder``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import loading, pool, swap
from mlkit.models import CompiledModel, Optimized, Preprocess, efficientnet_lite0, optimize

if TYPE_CHECKING:
    import torch

__all__ = ["PARTS", "Settings", "measure"]

SIDE = 224
PIXELS = Preprocess(mean=127.0, scale=128.0)
MOST_PHOTOS = 720


@dataclass(frozen=True)
class Settings:
    """What every part is called with.

    Attributes:
        out: folder for figures.
        blocks: of each of the things that are compared, by turns.
        photos: folder of photos, in folders named after their class; None for the sample's.
        check: raises where the user has interrupted.
    """

    out: Path
    blocks: int
    photos: Path | None
    check: Callable[[], None]


def measure(parts: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Measure the parts, each written down as soon as it is there; a section of the file each."""
    from mlkit.tagging import tag
    from tools.demo.summary import busy, machine

    path = settings.out / "models.json"
    settings.out.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    sections["machine"] = facts = machine(tag)
    print(busy(facts) or f"{facts['cpu']}, {facts['cores']} cores, {facts['precision']}")
    for part in parts:
        began = time.monotonic()
        sections[part] = PARTS[part](settings)
        path.write_text(json.dumps(_plain(sections), indent=2, allow_nan=False) + "\n")
        print(f"{part} ({time.monotonic() - began:.0f} s)")
        for name, value in sections[part].items():
            if name != "variants":
                print(f"  {part}.{name:24} {json.dumps(_plain(value))}")
    print(path)
    return sections


def _plain(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ---- optimising -------------------------------------------------------------------------------


def _lite0(settings: Settings) -> dict[str, Any]:
    """EfficientNet-Lite0 with its 1000 classes: every way there is."""
    photos, _ = _photos(settings.photos)
    result = optimize(
        efficientnet_lite0(), photos[:1], inputs=photos, preprocess=PIXELS, time_budget_s=900
    )
    return _evidence(result, settings.out / "lite0.png", len(photos) - min(len(photos) // 2, 200))


def _product(settings: Settings) -> dict[str, Any]:
    """The same trunk with the head of product classes: accuracy where folders name the class."""
    from mlkit.tagging.network import CLASSES

    photos, folders = _photos(settings.photos)
    known = np.array([folder in CLASSES for folder in folders])
    truth = np.array([CLASSES.index(folder) for folder in folders if folder in CLASSES])

    def evaluate(model: CompiledModel) -> Any:
        (scores,) = model.flat([photos[known]])
        return scores.argmax(1) == truth

    result = optimize(
        _product_network,
        photos[:1],
        inputs=photos,
        preprocess=PIXELS,
        evaluate=evaluate if known.any() else None,
        ways=[
            *("OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8"),
            *("pruned weights", "pruned channels"),
        ],
        time_budget_s=900,
    )
    return _evidence(result, settings.out / "product.png", len(photos) - min(len(photos) // 2, 200))


def _product_network() -> torch.nn.Module:
    from torch import nn

    from mlkit.tagging.network import _network_with_weights

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network_with_weights()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            classes: torch.Tensor = self.network(x)[1]
            return classes

    return Product()


def _evidence(result: Optimized, figure: Path, compared: int) -> dict[str, Any]:
    best = result.best(batch_size=8)
    frame = result.to_frame()
    result.plot().savefig(figure)
    print(result)
    row = frame[(frame.variant == best.name) & (frame.batch_size == 8)].iloc[-1]
    return {
        "best": best.name,
        "best_over_eager": {
            "value": float(row.speedup),
            "low": float(row.speedup_low),
            "high": float(row.speedup_high),
        },
        "top1_agreement": best.agreement,
        "compared_photos": compared,
        "note": result.note,
        "variants": json.loads(frame.to_json(orient="records")),
    }


def _photos(folder: Path | None) -> tuple[Any, list[str]]:
    """Photos [N, 224, 224, 3], evenly chosen from a folder, and the folders that they are in."""
    from PIL import Image

    from tools.demo.pictures import sample

    if folder is None:
        files = [picture.path for picture in sample()]
    else:
        files = sorted(
            file for file in folder.rglob("*") if file.suffix.lower() in {".jpg", ".png"}
        )
    step = max(1.0, len(files) / MOST_PHOTOS)
    files = [files[int(i * step)] for i in range(min(len(files), MOST_PHOTOS))]
    pixels = [
        np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for file in files
    ]
    return np.stack(pixels), [file.parent.name for file in files]


# ---- loading ----------------------------------------------------------------------------------


def _zero_copy(settings: Settings) -> dict[str, Any]:
    """Weights that are mapped, against `torch.load` and Ray's object store."""
    return loading.measure(settings.blocks, settings.check, loading.SIZES_MB)


def _compile_cache(settings: Settings) -> dict[str, Any]:
    """Seconds from a new process to a compiled model, without and with the cache."""
    code = "from mlkit.tagging.network import load_tagging_model; load_tagging_model()"
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            began = time.perf_counter()
            environment = {**os.environ, "MLKIT_CACHE_DIR": folder}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            starts.append(time.perf_counter() - began)
            settings.check()
    return {"first_start_s": starts[0], "second_start_s": starts[1]}


# ---- many models, and another one -------------------------------------------------------------


def _pool(settings: Settings) -> dict[str, Any]:
    """40 models of full size with room for 8."""
    with tempfile.TemporaryDirectory() as folder:
        return pool.measure_pool(Path(folder))


def _heads(settings: Settings) -> dict[str, Any]:
    """200 heads on one backbone."""
    return pool.measure_heads()


def _swap(settings: Settings) -> dict[str, Any]:
    """Another model under load: at once, as a canary, and as a shadow."""
    return swap.measure(settings.check)


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "lite0": _lite0,
    "product": _product,
    "zero_copy": _zero_copy,
    "compile_cache": _compile_cache,
    "pool": _pool,
    "heads": _heads,
    "swap": _swap,
}
"""Sections of the file, by name, in the order in which they are measured."""
