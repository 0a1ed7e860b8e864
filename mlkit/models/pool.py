"""Many models in one process, as many as fit into a memory budget."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, cast

from mlkit.errors import DefinitionError, MlkitError, Overloaded, entry_point
from mlkit.models import store as models
from mlkit.models.artefact import Builder
from mlkit.models.eviction import Resident, victims
from mlkit.models.whole import is_module

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ModelPool", "measured_bytes"]

M = TypeVar("M")

WAIT_S = 30.0
"""Maximum time that a call waits for models in use to make room."""

_COLUMNS = ["resident", "pinned", "in_use", "bytes", "hits", "loads", "evictions", "load_s"]


@dataclass(eq=False)
class _Slot(Generic[M]):
    """A model by its id: reserved when its loading starts.

    Attributes:
        nbytes: its size; 0 until it has been loaded, if it is not known before.
        users: calls that use it or wait for it.
        loading: whether it is not in memory yet.
        error: why it could not be loaded.
    """

    id: str
    nbytes: int
    used_at: float
    model: M | None = None
    users: int = 0
    pinned: bool = False
    loading: bool = True
    error: Exception | None = None

    @property
    def state(self) -> str:
        return "loading" if self.loading else "pinned" if self.pinned else "resident"

    def resident(self) -> Resident:
        kept = self.pinned or self.loading or self.users > 0
        return Resident(self.id, self.nbytes, self.used_at, kept)


class ModelPool(Generic[M]):
    """Loads models when they are asked for, and keeps as many as fit into a memory budget.

    The least recently used are dropped, but none that is in use or pinned. A model is loaded once,
    however many calls ask for it at the same time; if that fails, only they fail, and the next one
    tries again. It is for steps that are plain functions: a call waits while its model is loaded.

    ::

        def open_pool() -> ModelPool[Artefact]:
            return ModelPool(budget_bytes=2_000_000_000)

        @step
        def classify(
            row: list[float], model_id: str, *, pool: ModelPool[Artefact] = resource(open_pool)
        ) -> list[float]:
            with pool.use(model_id) as model:
                return model(np.array([row], np.float32))[0].tolist()

    Args:
        load: returns the model of an id; by default `mlkit.models.load`, with aliases resolved at
            each call.
        budget_bytes: memory that models may take. It is exceeded by at most one model, while that
            is loaded, and only if its size is not known before.
        size: returns the size of the model of an id in bytes, before it is loaded. By default that
            of its files for models of the store; others are measured once they are loaded.
        builder: returns the torch modules of the store, without weights, if their class cannot be
            imported; see `mlkit.models.load`.
        store: folder of models; see `mlkit.models.store_dir`.
        wait_s: how long a call waits for models in use to make room.
        clock: returns seconds.
    """

    routed_by: ClassVar[tuple[str, ...]] = ("model_id", "model_ids")
    """Parameters of a step with the id of its model: calls prefer the replica that holds it."""

    def __init__(
        self,
        load: Callable[[str], M] | None = None,
        *,
        budget_bytes: int,
        size: Callable[[str], int] | None = None,
        builder: Builder | None = None,
        store: str | PathLike[str] | None = None,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        from mlkit.metrics.pools import observe_pool

        if budget_bytes < 1:
            raise DefinitionError(
                "the budget must be at least one byte", where="ModelPool", got=str(budget_bytes)
            )
        self.budget_bytes = budget_bytes
        self._resolve: Callable[[str], str] = str
        if load is None:
            load = cast(
                "Callable[[str], M]", partial(models.load_model, builder=builder, store=store)
            )
            size = size or partial(models.size_of, store=store)
            self._resolve = partial(models.resolve, store=store)
        self._load = load
        self._size = size
        self._wait_s = wait_s
        self._clock = clock
        self._slots: dict[str, _Slot[M]] = {}
        self._changed = threading.Condition()
        self._measuring = threading.Lock()
        self._sizes: dict[str, int] = {}  # of models that have been loaded
        self._load_s: dict[str, float] = {}
        self._hits: Counter[str] = Counter()
        self._loads: Counter[str] = Counter()
        self._evictions: Counter[str] = Counter()
        self._failed = 0
        observe_pool(self)

    @contextmanager
    def use(self, id: str) -> Iterator[M]:
        """Hold a model, which is loaded first if it is not in memory; it stays while it is held.

        Raises:
            InputError: there is no such model.
            Overloaded: models in use did not make room in time.
            MlkitError: it does not fit into the budget, or could not be loaded.
        """
        slot = self._acquire(self._resolve(id))
        try:
            yield cast("M", slot.model)
        finally:
            with self._changed:
                slot.users -= 1
                self._changed.notify_all()

    def by_model(self, ids: Sequence[str]) -> Iterator[tuple[M, list[int]]]:
        """Yield each model that a batch names, and the places of its items, one after the other.

        ::

            for model, places in pool.by_model(model_ids):
                scores[places] = model(batch[places])

        A model is held until the next one is asked for. If one cannot be loaded, the batch fails;
        a batched step is then called with parts of it, until only the items of that model fail.
        """
        places: dict[str, list[int]] = {}
        for place, id in enumerate(ids):
            places.setdefault(id, []).append(place)
        for id, of_model in places.items():
            with self.use(id) as model:
                yield model, of_model
                del model  # its memory is free while the next one is loaded

    @entry_point
    def preload(self, *ids: str) -> None:
        """Load models before they are asked for."""
        for id in ids:
            with self.use(id):
                pass

    @entry_point
    def pin(self, *ids: str) -> None:
        """Load models, and keep them in memory."""
        for id in ids:
            with self.use(id):
                self._pin(self._resolve(id), pinned=True)

    def unpin(self, *ids: str) -> None:
        """Let models be dropped again."""
        for id in ids:
            self._pin(self._resolve(id), pinned=False)

    def _pin(self, id: str, *, pinned: bool) -> None:
        with self._changed:
            if id in self._slots:
                self._slots[id].pinned = pinned
                self._changed.notify_all()

    def resident(self) -> dict[str, int]:
        """Return the models in memory, and their sizes in bytes."""
        with self._changed:
            return {slot.id: slot.nbytes for slot in self._slots.values() if not slot.loading}

    def counts(self) -> dict[str, int]:
        """Return counters since the pool was created, and the bytes in memory.

        ``hits`` are calls that started no loading; ``failed`` is how often loading failed;
        ``bytes`` are those of models in memory, and of those that are being loaded.
        """
        with self._changed:
            return {
                "hits": self._hits.total(),
                "loads": self._loads.total(),
                "evictions": self._evictions.total(),
                "failed": self._failed,
                "resident": sum(not slot.loading for slot in self._slots.values()),
                "bytes": sum(slot.nbytes for slot in self._slots.values()),
                "budget_bytes": self.budget_bytes,
            }

    def report(self, most: int) -> dict[str, Any]:
        """Return `counts`, and ``models``: id, bytes and state of each, the last used first.

        Args:
            most: number of models to list.
        """
        with self._changed:
            slots = sorted(self._slots.values(), key=lambda slot: slot.used_at, reverse=True)
            listed = [[slot.id, slot.nbytes, slot.state] for slot in slots[:most]]
            return {**self.counts(), "models": listed}

    def status(self) -> pd.DataFrame:
        """Return a row for each model that has been loaded, those in memory first."""
        import pandas as pd

        with self._changed:
            rows = [self._row(id) for id in self._loads]
        table = pd.DataFrame(rows, columns=["model", *_COLUMNS]).set_index("model")
        return table.sort_values("resident", ascending=False, kind="stable")

    def _row(self, id: str) -> dict[str, Any]:
        slot = self._slots.get(id) or _Slot(id, 0, 0.0)
        return {
            "model": id,
            "resident": not slot.loading,
            "pinned": slot.pinned,
            "in_use": slot.users,
            "bytes": self._sizes[id],
            "hits": self._hits[id],
            "loads": self._loads[id],
            "evictions": self._evictions[id],
            "load_s": self._load_s[id],
        }

    # ---- loading ------------------------------------------------------------------------------

    def _acquire(self, id: str) -> _Slot[M]:
        while True:
            with self._changed:
                slot = self._slots.get(id)
                if slot is None:
                    slot = self._slots[id] = _Slot(id, 0, self._clock(), users=1)
                    break
                if self._join(slot):
                    self._hits[id] += 1
                    return slot
        try:
            self._fill(slot)
        except BaseException as error:
            with self._changed:
                self._give_up(slot, error)
            raise
        return slot

    def _join(self, slot: _Slot[M]) -> bool:
        """Use a model that another call has loaded, or loads; False if that was interrupted."""
        slot.users += 1
        slot.used_at = self._clock()
        try:
            self._changed.wait_for(lambda: not slot.loading)
            if slot.error is not None:
                raise slot.error
        except BaseException:
            slot.users -= 1
            raise
        return self._slots.get(slot.id) is slot

    def _give_up(self, slot: _Slot[M], error: BaseException) -> None:
        del self._slots[slot.id]
        self._failed += 1
        slot.error = error if isinstance(error, Exception) else None
        slot.loading = False
        self._changed.notify_all()

    def _fill(self, slot: _Slot[M]) -> None:
        size = self._sizes.get(slot.id)
        if size is None and self._size is not None:
            size = self._size(slot.id)
        if size is not None:
            self._make_room(slot, size)
            self._loaded(slot, *self._timed(slot.id))
            return
        with self._measuring:  # one at a time, so that at most one is beyond the budget
            model, took_s = self._timed(slot.id)
            self._make_room(slot, measured_bytes(slot.id, model))
            self._loaded(slot, model, took_s)

    def _timed(self, id: str) -> tuple[M, float]:
        began = self._clock()
        try:
            model = self._load(id)
        except MlkitError:
            raise
        except Exception as error:
            raise MlkitError(
                f"the model could not be loaded: {type(error).__name__}: {error}", where=id
            ) from error
        return model, self._clock() - began

    def _make_room(self, slot: _Slot[M], size: int) -> None:
        """Reserve the memory of a model; drop others for it, or wait until that is possible."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._reserve(slot, size), self._wait_s):
                raise Overloaded(
                    f"the models in use leave no room for {slot.id}",
                    where="ModelPool",
                    expected=f"{size:,} bytes of {self.budget_bytes:,}",
                    fix="raise budget_bytes=, or have fewer models in use at the same time",
                )

    def _reserve(self, slot: _Slot[M], size: int) -> bool:
        pinned = sum(other.nbytes for other in self._slots.values() if other.pinned)
        if size + pinned > self.budget_bytes:
            raise MlkitError(
                "the model does not fit into the pool",
                where=slot.id,
                expected=f"at most {self.budget_bytes:,} bytes, of which {pinned:,} are pinned",
                got=f"{size:,} bytes",
                fix="raise budget_bytes=",
            )
        residents = [other.resident() for other in self._slots.values()]
        dropped = victims(residents, self.budget_bytes - size)
        if dropped is None:
            return False
        for id in dropped:
            del self._slots[id]
            self._evictions[id] += 1
        slot.nbytes = size
        return True

    def _loaded(self, slot: _Slot[M], model: M, took_s: float) -> None:
        with self._changed:
            slot.model = model
            slot.loading = False
            self._sizes[slot.id] = slot.nbytes
            self._loads[slot.id] += 1
            self._load_s[slot.id] = took_s
            self._changed.notify_all()

    def __repr__(self) -> str:
        counts = self.counts()
        return (
            f"<pool of {counts['resident']} models, {counts['bytes'] / 1e6:,.0f} of "
            f"{self.budget_bytes / 1e6:,.0f} MB>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a pool cannot be pickled; pass the step a loader, resource(open_pool), so that each "
            "process has its own"
        )


def measured_bytes(id: str, model: Any) -> int:
    """Size of a model in bytes: its ``nbytes``, or that of a torch module's tensors.

    Raises:
        DefinitionError: it has neither.
    """
    if is_module(model):
        return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    size = getattr(model, "nbytes", None)
    if not isinstance(size, int):
        raise DefinitionError(
            "the size of the model is not known",
            where=id,
            expected="a torch module, or an object with nbytes",
            got=type(model).__name__,
            fix="pass the pool size=, a function that returns it by id",
        )
    return size
