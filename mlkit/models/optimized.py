"""The result of `optimize`: what was measured, and the files of the variants."""

from __future__ import annotations

import json
import shutil
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.errors import MlkitError, entry_point
from mlkit.models import cache
from mlkit.models.evidence import Load, Variant, best, table
from mlkit.models.model import ArraySpec, CompiledModel, Structure, Target
from mlkit.models.source import Source
from mlkit.models.target import cpu_count
from mlkit.models.ways import WAYS, Way

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

__all__ = ["Optimized", "Subject", "keep", "read"]

ABOUT = "about.json"


@dataclass(frozen=True)
class Subject:
    """The model that is optimized.

    Attributes:
        source: its module.
        inputs: shapes and dtypes of its inputs.
        structure: of its results.
        sizes: batch sizes that executables are compiled for; empty for any size.
    """

    source: Source
    inputs: tuple[ArraySpec, ...]
    structure: Structure
    sizes: tuple[int, ...]

    def load(self, way: Way, folder: Path, threads: int, workers: int | None) -> CompiledModel:
        """Load the model in a way, from the files of a search."""
        target = Target(
            engine=way.engine,
            device="cpu",
            precision=way.precision,
            workers=workers or threads,
            threads=threads,
        )
        files = folder / way.files
        return way.load(files, self.source, target, self.inputs, self.structure, self.sizes)


class Optimized:
    """The ways to run a model, with what was measured of each; a table as its repr.

    Attributes:
        variants: in the order in which they were tried, the reference first.
        loads: what they were timed with.
        note: why something is missing; empty if everything was measured.
        folder: the variants' files.
    """

    def __init__(
        self, subject: Subject, variants: list[Variant], loads: list[Load], folder: Path
    ) -> None:
        self.variants, self.loads, self.folder = variants, loads, folder
        self.note = ""
        self._subject = subject

    def to_frame(self) -> pd.DataFrame:
        """A row per variant, batch size and thread count.

        Latency in ms (median of interleaved blocks), throughput of one caller in items per second,
        speedup over the reference, accuracy and agreement as shares, sizes in megabytes. What
        `pareto` marks is inferior to no other in both speed and quality at its batch size and
        thread count.
        """
        import pandas as pd

        frame = pd.DataFrame(table(self.variants, self.loads))
        return frame.astype({"batch_size": "Int64", "threads": "Int64"})

    def best(
        self,
        *,
        max_accuracy_drop: float = 0.01,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> Variant:
        """Return the variant that `pick` loads."""
        load = Load(
            batch_size or max(load.batch_size for load in self.loads),
            threads or max(load.threads for load in self.loads),
        )
        return best(self.variants, load, max_accuracy_drop)

    @entry_point
    def pick(
        self,
        *,
        max_accuracy_drop: float = 0.01,
        batch_size: int | None = None,
        threads: int | None = None,
        workers: int | None = None,
    ) -> CompiledModel:
        """Load the fastest variant that is good enough, in a replica without another search.

        ::

            best = optimize(net, example, inputs=photos)

            def load_net() -> CompiledModel:
                return best.pick()

        Args:
            max_accuracy_drop: by which its accuracy may be below the reference's; without
                ``evaluate`` the share of inputs on which they may disagree.
            batch_size: of the calls that should be fast; by default the largest measured.
            threads: likewise, and the threads of the loaded model.
            workers: concurrent calls of the loaded model; as many as threads by default.

        Raises:
            MlkitError: nothing was measured with this batch size and thread count, or the files
                have been deleted.
        """
        variant = self.best(
            max_accuracy_drop=max_accuracy_drop, batch_size=batch_size, threads=threads
        )
        way = next(way for way in WAYS if way.name == variant.name)
        files = self.folder / way.files
        if not files.is_dir():
            raise MlkitError(
                "the model's files have been deleted, or are on another machine",
                where=str(files),
                fix="run optimize() again",
            )
        return self._subject.load(way, self.folder, threads or cpu_count(), workers)

    def plot(self) -> matplotlib.figure.Figure:
        """Draw speed against quality, the Pareto front marked, and a row per variant beside it."""
        from mlkit.views.mpl.optimize import plot_optimized

        return plot_optimized(self)

    def __repr__(self) -> str:
        text = self.to_frame().round(4).to_string(index=False)
        return f"{text}\n{self.note}" if self.note else text

    def _repr_html_(self) -> str:
        from mlkit.views.optimize import to_html

        return to_html(self)


def keep(result: Optimized, key: str | None) -> None:
    """Move the files to the cache; without a key they are deleted with the result."""
    about = {
        "variants": [variant.to_dict() for variant in result.variants],
        "structure": asdict(result._subject.structure),
        "note": result.note,
    }
    (result.folder / ABOUT).write_text(json.dumps(about))
    if key is not None:
        with suppress(OSError):  # another process was first
            result.folder = result.folder.rename(cache.cache_dir() / key)
            return
    weakref.finalize(result, shutil.rmtree, result.folder, True)


def read(
    folder: Path,
    source: Source,
    inputs: tuple[ArraySpec, ...],
    sizes: tuple[int, ...],
    loads: list[Load],
) -> Optimized | None:
    """Read a cached result; None if it is corrupt."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        variants = [Variant.from_dict(variant) for variant in about["variants"]]
        kind, names = about["structure"]["kind"], about["structure"]["names"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    subject = Subject(source, inputs, Structure(kind, tuple(names)), sizes)
    result = Optimized(subject, variants, loads, folder)
    result.note = about["note"]
    return result
