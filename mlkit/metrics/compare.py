"""Comparisons of a version on trial with the one that serves, as they are counted and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mlkit.metrics.peek import shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparisons", "Disagreements", "Values", "merge"]

Values: TypeAlias = tuple[Mapping[str, Any], Any, Any]
"""Arguments of a request, its result, and that of the version on trial."""

MAX_KEPT = 200
"""Number of disagreements kept for each version, the latest."""

MAX_VERSIONS = 4
"""Number of versions whose comparisons are kept, the latest."""

MAX_SAMPLED = 10
"""Number of disagreements that one process keeps in an interval."""


@dataclass
class Comparisons:
    """Comparisons in one process since the last delta."""

    compared: int = 0
    disagreed: int = 0
    dropped: int = 0
    samples: list[tuple[Values, Sequence[str]]] = field(default_factory=list)

    def add(self, values: Values | None, differing: Sequence[str]) -> None:
        """Count a comparison; ``values`` is None if the results agree."""
        self.compared += 1
        if values is not None:
            self.disagreed += 1
            if len(self.samples) < MAX_SAMPLED:
                self.samples.append((values, differing))

    def pack(self, at: float) -> dict[str, Any]:
        """Convert to plain data: text and thumbnails."""
        return {
            "compared": self.compared,
            "disagreed": self.disagreed,
            "dropped": self.dropped,
            "samples": [
                {
                    "at": at,
                    "inputs": [[name, *shown(value)] for name, value in inputs.items()],
                    "old": shown(old),
                    "new": shown(new),
                    "differing": list(differing),
                }
                for (inputs, old, new), differing in self.samples
            ],
        }


def merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Merge packed comparisons by version."""
    merged = dict(earlier)
    for version, new in later.items():
        old = merged.pop(version, None) or Comparisons().pack(0.0)
        counts = {name: old[name] + new[name] for name in ("compared", "disagreed", "dropped")}
        merged[version] = {**counts, "samples": [*old["samples"], *new["samples"]][-MAX_KEPT:]}
    return {version: merged[version] for version in list(merged)[-MAX_VERSIONS:]}


@dataclass(frozen=True)
class Disagreements:
    """Requests for which the version on trial returned something else; displayed as a table.

    Attributes:
        version: the version on trial.
        compared: number of requests that it has seen a copy of.
        disagreed: number of those for which the results differ.
        dropped: number of sampled requests that were not compared, for lack of time.
        samples: the latest of those that differ, the latest first; each has ``at``, ``inputs``,
            ``old``, ``new`` and ``differing``, the paths at which the results differ.
    """

    version: str
    compared: int
    disagreed: int
    dropped: int
    samples: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.samples)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each: time, inputs, ``old``, ``new``, and where they differ.

        Images are ``data:`` URLs of thumbnails, all else is text.
        """
        import pandas as pd

        rows = [
            {
                "time": pd.Timestamp(sample["at"], unit="s", tz="UTC"),
                **{name: _cell(*shown) for name, *shown in sample["inputs"]},
                "old": _cell(*sample["old"]),
                "new": _cell(*sample["new"]),
                "differing": ", ".join(sample["differing"]),
            }
            for sample in self.samples
        ]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        from mlkit.views.disagreements import to_text

        return to_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from mlkit.views.disagreements import to_html

        return to_html(self)


def _cell(text: str, thumbnails: Sequence[str]) -> str:
    return thumbnails[0] if len(thumbnails) == 1 else text
