"""Search for the fastest way to run a model, with evidence: ``optimize(model, example)``."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError, MlkitError, did_you_mean, entry_point
from mlkit.models import cache
from mlkit.models.evidence import MIN_ROUNDS, Load, TimeBox, Variant
from mlkit.models.model import Array, ArraySpec, CompiledModel
from mlkit.models.optimized import Optimized, Subject, keep, read
from mlkit.models.searchkey import search_key
from mlkit.models.source import Source
from mlkit.models.target import cpu_count
from mlkit.models.timing import block
from mlkit.models.ways import WAYS, Way, WayFiles
from mlkit.models.whole import Preprocess

if TYPE_CHECKING:
    import torch

__all__ = ["optimize", "split"]

BLOCK_S = 0.1
MAX_CALIBRATION = 200


@entry_point
def optimize(
    module: torch.nn.Module | Callable[[], torch.nn.Module],
    example: Array | tuple[Array, ...],
    *,
    inputs: Array | tuple[Array, ...] | None = None,
    evaluate: Callable[[CompiledModel], Any] | None = None,
    preprocess: Preprocess | None = None,
    dynamic_axes: Sequence[int] = (0,),
    batch_sizes: Sequence[int] = (1, 8),
    threads: Sequence[int] = (),
    fine_tune: Callable[[torch.nn.Module], object] | None = None,
    ways: Sequence[str] = (),
    time_budget_s: float = 300.0,
    cache_key: str | None = None,
    progress: bool = True,
) -> Optimized:
    """Try what this machine supports to run a module faster on the CPU, and measure each way.

    The row of a way that fails has its error. An interrupt (Ctrl-C, or the stop button) ends
    the search and keeps what was measured. A complete search is cached: the same call, in this or
    another process of the machine, returns it at once.

    Args:
        module: the module, or a function without arguments that returns it. It is not changed.
        example: input of the module: an array, or a tuple of arrays, with items along axis 0.
        inputs: representative inputs like the example; a few hundred items along axis 0. Half of
            them, at most 200, calibrate int8; on the others the results are compared with the
            reference's, eager torch in fp32. Without them there is no int8, and the example is
            compared.
        evaluate: is called with a model and returns its accuracy: an array [N] of booleans
            (correct or not) or scores, from which the interval follows, or one number.
        preprocess: preprocessing of the first array, compiled into the model.
        dynamic_axes: axes whose length may differ from the example's.
        batch_sizes: to measure with. If only axis 0 varies, executables are compiled for these
            sizes and the items of a batch must be independent.
        threads: numbers of CPU threads to measure with; by default 1 and all.
        fine_tune: trains the pruned module that it is called with in place; what is pruned stays
            zero. Without it pruning costs more accuracy.
        ways: names of the ways to try, such as ``OpenVINO int8``; all by default.
        time_budget_s: seconds for everything. One build is never cut off, so that it may take
            longer; builds that do not fit are not tried.
        cache_key: identifies the module's weights and code, and what ``evaluate`` and ``fine_tune``
            do. By default it is computed from their contents.
        progress: whether to show a progress bar.

    Raises:
        DefinitionError: the arguments are invalid.
        MlkitError: the reference's outputs are not finite.
    """
    examples = example if isinstance(example, tuple) else (example,)
    specs = tuple(ArraySpec.of(array, dynamic_axes) for array in examples)
    samples = inputs if inputs is None or isinstance(inputs, tuple) else (inputs,)
    _check(specs, samples, batch_sizes, ways)
    source = Source(module, examples, preprocess)
    loads = _loads(batch_sizes, threads)
    sizes = tuple(sorted({1, *batch_sizes})) if tuple(dynamic_axes) == (0,) else ()
    chosen = [way for way in WAYS if way is WAYS[0] or not ways or way.name in ways]
    options = (specs, loads, sizes, preprocess, time_budget_s, [way.name for way in chosen])
    key = search_key(source, samples, (evaluate, fine_tune), options, cache_key)
    if key is not None and (cache.cache_dir() / key).is_dir():
        cached = read(cache.cache_dir() / key, source, specs, sizes, loads)
        if cached is not None:
            return cached
        cache.discard(cache.cache_dir() / key)
    box = TimeBox(time_budget_s, perf_counter)
    cache.cache_dir().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".optimize-", dir=cache.cache_dir()))
    _, structure = source.load()
    subject = Subject(source, specs, structure, sizes)
    result = Optimized(subject, [], loads, folder)
    calibration, compared = split(samples, examples)
    files = WayFiles(source, specs, calibration, fine_tune)
    search = _Search(subject, result, files, compared, evaluate, box, progress)
    interrupted = False
    torch_threads = _set_threads(max(load.threads for load in loads))
    try:
        search.build(chosen)
        search.measure()
    except KeyboardInterrupt:
        interrupted = True
        result.note = "Interrupted: the measurements until then are kept."
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        _set_threads(torch_threads)
    keep(result, None if interrupted else key)
    return result


class _Search:
    """Builds and measures the variants in turn, and records each result immediately."""

    def __init__(
        self,
        subject: Subject,
        result: Optimized,
        files: WayFiles,
        compared: tuple[Array, ...],
        evaluate: Callable[[CompiledModel], Any] | None,
        box: TimeBox,
        progress: bool,
    ) -> None:
        self.subject, self.result, self.files, self.compared = subject, result, files, compared
        self.evaluate, self.box, self.progress = evaluate, box, progress
        self.built: list[tuple[Way, Variant]] = []
        self.problems: dict[str, str] = {}
        self.models: dict[tuple[str, int], CompiledModel] = {}
        self.wanted: list[Array] | None = None

    def build(self, ways: Sequence[Way]) -> None:
        """Build each way and compare its results; the reference comes first and must work."""
        for way in self._shown(ways, "building"):
            variant = Variant(way.name)
            self.result.variants.append(variant)
            variant.failure = "" if self.wanted is None else way.missing()
            if not variant.failure and self.wanted is not None and not self.box.may_build():
                variant.failure = "not tried: the time budget was used up"
            if variant.failure:
                continue
            try:
                self._try(way, variant)
            except KeyboardInterrupt:
                variant.failure = "interrupted"
                raise
            except Exception as error:
                if self.wanted is None:
                    raise
                reason = error.what if isinstance(error, MlkitError) else str(error).strip()
                variant.failure = (reason or type(error).__name__).split("\n")[0][:300]
            else:
                self.built.append((way, variant))

    def _try(self, way: Way, variant: Variant) -> None:
        from mlkit.models.agreement import check_finite, compare_results, estimate

        folder = self.result.folder / way.files
        if way.files in self.problems:
            raise MlkitError(self.problems[way.files])
        if not folder.exists():
            try:
                self.files.write(way.files, folder)
            except Exception as error:
                self.problems[way.files] = getattr(error, "what", str(error))
                raise
        variant.file_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        before, began = _resident_mb(), perf_counter()
        model = self._load(way, self._most_threads)
        variant.load_s = perf_counter() - began
        largest = max(load.batch_size for load in self.result.loads)
        model(*_batch(self.compared, largest))
        variant.memory_mb = max(0.0, _resident_mb() - before)
        got = model.flat(self.compared, items=largest)
        check_finite(got, way.name)
        if self.wanted is None:
            self.wanted = got
        agreement = compare_results(self.wanted, got)
        variant.agreement, variant.max_difference = agreement.top1, agreement.max_difference
        variant.relative_error = agreement.relative_error
        if self.evaluate is not None:
            variant.accuracy = estimate(self.evaluate(model))
        # Not interleaved with the others: this is kept only if the search ends early.
        for load in self.result.loads:
            self._time(way, variant, load, anew=True)
        _set_threads(self._most_threads)

    def measure(self) -> None:
        """Time all variants in interleaved blocks of calls."""
        rounds = 0
        while self.built and self.box.may_measure(rounds):
            for load in self.result.loads:
                for way, variant in self.built:
                    self._time(way, variant, load, anew=rounds == 0)
            rounds += 1
        if rounds < MIN_ROUNDS:
            self.result.note = (
                f"The time budget allowed {rounds} of {MIN_ROUNDS} blocks, too few for intervals."
            )

    def _time(self, way: Way, variant: Variant, load: Load, *, anew: bool) -> None:
        """Add a block of calls, or begin with it anew."""
        # Generated code has its threads built in: it would be compiled again.
        if way.variation == "compile" and load.threads != self._most_threads:
            return
        _set_threads(load.threads)
        model = self._load(way, load.threads)
        batch = _batch(self.compared, load.batch_size)
        milliseconds = 1e3 * median(block(functools.partial(model, *batch), BLOCK_S))
        earlier = [] if anew else variant.blocks_ms.get(load, [])
        variant.blocks_ms[load] = [*earlier, milliseconds]

    @property
    def _most_threads(self) -> int:
        return max(load.threads for load in self.result.loads)

    def _load(self, way: Way, threads: int) -> CompiledModel:
        """Load a variant once for each number of threads; torch's are set for the process."""
        key = way.name, self._most_threads if way.engine == "torch" else threads
        if key not in self.models:
            self.models[key] = self.subject.load(way, self.result.folder, threads, workers=1)
        return self.models[key]

    def _shown(self, ways: Sequence[Way], doing: str) -> Iterable[Way]:
        from tqdm.auto import tqdm

        bar = tqdm(ways, desc=doing, leave=False, disable=not self.progress)
        for way in bar:
            bar.set_postfix_str(way.name)
            yield way


def split(
    samples: tuple[Array, ...] | None, examples: tuple[Array, ...]
) -> tuple[tuple[Array, ...] | None, tuple[Array, ...]]:
    """Divide samples into those that calibrate and those that are compared, evenly spread.

    Without samples nothing calibrates, and the examples are compared; a single one does both.
    """
    if samples is None:
        return None, examples
    count = len(samples[0])
    if count == 1:
        return samples, samples
    import numpy as np

    calibrates = np.zeros(count, bool)
    calibrates[np.linspace(0, count - 1, min(count // 2, MAX_CALIBRATION)).astype(int)] = True
    return tuple(a[calibrates] for a in samples), tuple(a[~calibrates] for a in samples)


def _loads(batch_sizes: Sequence[int], threads: Sequence[int]) -> list[Load]:
    counts = sorted({*(threads or (1, cpu_count()))})
    return [Load(size, count) for count in counts for size in sorted({*batch_sizes})]


def _check(
    specs: tuple[ArraySpec, ...],
    samples: tuple[Array, ...] | None,
    batch_sizes: Sequence[int],
    ways: Sequence[str],
) -> None:
    fits = samples is None or (
        len(samples) == len(specs)
        and len({len(array) for array in samples}) == 1
        and all(spec.fits(array) for spec, array in zip(specs, samples, strict=True))
    )
    if not fits:
        raise DefinitionError(
            "inputs= must be like the example, with the same number of items in each",
            where="optimize",
            expected=", ".join(map(str, specs)),
            got=", ".join(str(ArraySpec.of(array, ())) for array in samples or ()),
        )
    if not batch_sizes or min(batch_sizes) < 1:
        raise DefinitionError("batch_sizes= must be at least 1", where="optimize")
    names = [way.name for way in WAYS]
    for name in ways:
        if name not in names:
            raise DefinitionError(
                f"there is no way {name!r}",
                where="optimize",
                expected=", ".join(names),
                fix=did_you_mean(name, names),
            )


def _batch(arrays: tuple[Array, ...], size: int) -> list[Array]:
    """The first items of the arrays; from the start again where there are too few."""
    return [array[[i % len(array) for i in range(size)]] for array in arrays]


def _set_threads(count: int) -> int:
    """Set the number of threads that torch uses in this process; return what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    return before


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6
