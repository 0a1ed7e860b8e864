"""What was measured of the variants of a model, and the decisions that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mlkit.errors import MlkitError
from mlkit.models.agreement import Estimate

__all__ = ["MIN_ROUNDS", "Load", "TimeBox", "Variant", "best", "pareto", "speedup", "table"]

NEARLY_AS_FAST = 1.05
"""Of variants whose latencies differ by less than this factor, the most accurate is picked."""

RESAMPLES = 1_000
BUILD_SHARE = 0.6
MIN_ROUNDS = 5
MAX_ROUNDS = 9


@dataclass(frozen=True, order=True)
class Load:
    """What a call was timed with: items in the batch, and CPU threads."""

    batch_size: int
    threads: int


@dataclass
class Variant:
    """A way to run the model, and what was measured of it; NaN where something was not.

    Attributes:
        name: such as ``OpenVINO int8``; the first variant is the reference.
        failure: why it does not run, or was not tried; empty if it runs.
        load_s: seconds to load it from its files.
        file_mb: size of its files in megabytes.
        memory_mb: growth of the process's resident memory by loading and the first call.
        agreement: share of the compared inputs whose best class is the reference's.
        relative_error: largest relative error of an output, against the reference.
        max_difference: largest absolute difference from the reference's outputs.
        accuracy: what ``evaluate`` returned, with its 95% interval.
        blocks_ms: median latencies of interleaved blocks of calls, by load.
    """

    name: str
    failure: str = ""
    load_s: float = math.nan
    file_mb: float = math.nan
    memory_mb: float = math.nan
    agreement: float = math.nan
    relative_error: float = math.nan
    max_difference: float = math.nan
    accuracy: Estimate = field(default_factory=lambda: Estimate(math.nan))
    blocks_ms: dict[Load, list[float]] = field(default_factory=dict)

    def latency_ms(self, load: Load) -> float:
        """Median of the blocks; NaN if there are none."""
        blocks = self.blocks_ms.get(load)
        return median(blocks) if blocks else math.nan

    def throughput(self, load: Load) -> float:
        """Items per second of one caller."""
        return 1e3 * load.batch_size / self.latency_ms(load)

    @property
    def quality(self) -> float:
        """Accuracy if it was evaluated, else agreement, else one minus the relative error."""
        known = (self.accuracy.value, self.agreement, 1 - self.relative_error)
        return next((value for value in known if not math.isnan(value)), math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; see `from_dict`."""
        blocks = [[load.batch_size, load.threads, ms] for load, ms in self.blocks_ms.items()]
        return vars(self) | {"accuracy": asdict(self.accuracy), "blocks_ms": blocks}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Variant:
        """Restore a variant."""
        blocks = {Load(batch_size, threads): ms for batch_size, threads, ms in data["blocks_ms"]}
        return cls(**data | {"accuracy": Estimate(**data["accuracy"]), "blocks_ms": blocks})


class TimeBox:
    """How long a search may take; one build or block is never cut off, so that it may run over.

    Args:
        budget_s: seconds from now on.
        clock: returns seconds.
    """

    def __init__(self, budget_s: float, clock: Any) -> None:
        self._budget_s, self._clock = budget_s, clock
        self._began = clock()

    def may_build(self) -> bool:
        """Whether to build another variant: the rest of the time is for measuring."""
        return bool(self._clock() - self._began < BUILD_SHARE * self._budget_s)

    def may_measure(self, rounds: int) -> bool:
        """Whether to start another round of blocks: one always, then as many as fit."""
        late = self._clock() - self._began >= self._budget_s
        return rounds == 0 or (rounds < MAX_ROUNDS and not late)


def speedup(reference: Sequence[float], variant: Sequence[float]) -> Estimate:
    """Ratio of the medians of interleaved blocks, with the 95% interval of a paired bootstrap.

    With fewer than five blocks each, the interval is unknown.
    """
    import numpy as np

    count = min(len(reference), len(variant))
    if not count:
        return Estimate(math.nan)
    a, b = (np.asarray(blocks[:count]) for blocks in (reference, variant))
    value = float(np.median(a) / np.median(b))
    if count < MIN_ROUNDS:
        return Estimate(value)
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    ratios = np.median(a[chosen], axis=1) / np.median(b[chosen], axis=1)
    return Estimate(value, *map(float, np.quantile(ratios, [0.025, 0.975])))


def pareto(variants: Iterable[Variant], load: Load) -> set[str]:
    """Names of the variants to which no other is superior in both speed and quality."""
    points = [
        (variant.latency_ms(load), variant.quality, variant.name)
        for variant in variants
        if not variant.failure and not math.isnan(variant.latency_ms(load) + variant.quality)
    ]
    return {
        name
        for ms, quality, name in points
        if not any(
            other_ms <= ms and other >= quality and (other_ms, other) != (ms, quality)
            for other_ms, other, _ in points
        )
    }


def best(variants: Sequence[Variant], load: Load, max_drop: float) -> Variant:
    """Return the fastest variant whose quality is at most ``max_drop`` below the reference's.

    Of variants that are nearly as fast, the one with the highest quality.

    Raises:
        MlkitError: nothing was measured with this load.
    """
    if not variants or math.isnan(variants[0].latency_ms(load)):
        raise MlkitError(
            f"nothing was measured with batches of {load.batch_size} on {load.threads} threads",
            where="pick",
            fix="see to_frame(), and give optimize() more time",
        )
    # A tolerance for 0.90 - 0.89 > 0.01.
    enough = variants[0].quality - max_drop - 1e-9
    kept = [v for v in variants if v.quality >= enough and not math.isnan(v.latency_ms(load))]
    limit = NEARLY_AS_FAST * min(variant.latency_ms(load) for variant in kept)
    near = [variant for variant in kept if variant.latency_ms(load) <= limit]
    return max(near, key=lambda variant: (variant.quality, -variant.latency_ms(load)))


def table(variants: Sequence[Variant], loads: Sequence[Load]) -> list[dict[str, Any]]:
    """Return a row for each variant and load; one row for a variant without measurements."""
    rows = []
    fronts = {load: pareto(variants, load) for load in loads}
    for variant in variants:
        measured = [load for load in loads if variant.blocks_ms.get(load)]
        for load in measured or loads[:1]:
            blocks = variant.blocks_ms.get(load, [])
            gain = speedup(variants[0].blocks_ms.get(load, []), blocks)
            rows.append(
                {
                    "variant": variant.name,
                    "batch_size": load.batch_size if measured else None,
                    "threads": load.threads if measured else None,
                    "latency_ms": variant.latency_ms(load),
                    "throughput": variant.throughput(load),
                    "speedup": gain.value,
                    "speedup_low": gain.low,
                    "speedup_high": gain.high,
                    "blocks": len(blocks),
                    "accuracy": variant.accuracy.value,
                    "accuracy_low": variant.accuracy.low,
                    "accuracy_high": variant.accuracy.high,
                    "agreement": variant.agreement,
                    "max_difference": variant.max_difference,
                    "load_s": variant.load_s,
                    "file_mb": variant.file_mb,
                    "memory_mb": variant.memory_mb,
                    "pareto": variant.name in fronts[load],
                    "failure": variant.failure,
                }
            )
    return rows
