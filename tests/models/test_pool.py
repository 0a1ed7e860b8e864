"""A pool against a simple model of it, and what happens when threads use it at the same time."""

import gc
import pickle
import re
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn

from benchmarks.pool import ideal_hits
from mlkit import batched_step, models, pipeline, resource
from mlkit.errors import DefinitionError, InputError, MlkitError, Overloaded, StepError
from mlkit.models import Artefact, ModelPool

SIZES = {"a": 3, "b": 4, "c": 5, "d": 2, "huge": 11}
BUDGET = 10


@dataclass
class Weights:
    id: str
    nbytes: int


def load(id: str) -> Weights:
    if id not in SIZES:
        raise InputError(f"there is no model {id}")
    return Weights(id, SIZES[id])


def pool_of(load=load, budget=BUDGET, **options) -> ModelPool[Weights]:
    options = {"wait_s": 0, "clock": count().__next__} | options
    return ModelPool(load, budget_bytes=budget, **options)


class LRU(RuleBasedStateMachine):
    """What the pool must do, as a list of ids in the order of their use."""

    @initialize(declared=st.booleans())
    def make(self, declared: bool) -> None:
        self.loaded: list[str] = []
        self.pool = pool_of(self.load, size=SIZES.__getitem__ if declared else None)
        self.order: list[str] = []
        self.held: list[tuple[str, ExitStack]] = []
        self.pinned: set[str] = set()
        self.hits = self.failed = 0

    def load(self, id: str) -> Weights:
        self.loaded.append(id)
        return load(id)

    def expect(self, id: str) -> type[Exception] | None:
        """Update the model for a use of ``id``; the error that it ends in."""
        if id in self.order:
            self.order.remove(id)
            self.order.append(id)
            self.hits += 1
            return None
        if SIZES[id] + sum(SIZES[p] for p in self.pinned) > BUDGET:
            self.failed += 1
            return MlkitError
        kept = [*self.order]
        for other in self.order:
            if sum(SIZES[k] for k in kept) + SIZES[id] <= BUDGET:
                break
            if other not in self.pinned and other not in {h for h, _ in self.held}:
                kept.remove(other)
        if sum(SIZES[k] for k in kept) + SIZES[id] > BUDGET:
            self.failed += 1
            return Overloaded
        self.order = [*kept, id]
        return None

    @rule(ids=st.lists(st.sampled_from(sorted(SIZES)), min_size=3, max_size=8))
    def use(self, ids: list[str]) -> None:
        for id in ids:
            self.hold(id)
            if self.held and self.held[-1][0] == id:
                self.release(-1)

    @rule(id=st.sampled_from(sorted(SIZES)))
    def hold(self, id: str) -> None:
        error = self.expect(id)
        stack = ExitStack()
        if error is None:
            assert stack.enter_context(self.pool.use(id)).id == id
            self.held.append((id, stack))
        else:
            with pytest.raises(error):
                stack.enter_context(self.pool.use(id))

    @rule(place=st.integers(0))
    def release(self, place: int) -> None:
        if self.held:
            self.held.pop(place % len(self.held))[1].close()

    @rule(id=st.sampled_from(sorted(SIZES)))
    def pin(self, id: str) -> None:
        if id in self.order:
            self.expect(id)
            self.pool.pin(id)
            self.pinned.add(id)

    @rule(id=st.sampled_from(sorted(SIZES)))
    def unpin(self, id: str) -> None:
        self.pool.unpin(id)
        self.pinned.discard(id)

    @invariant()
    def they_agree(self) -> None:
        counts = self.pool.counts()
        assert self.pool.resident() == {id: SIZES[id] for id in self.order}
        assert counts["bytes"] == sum(SIZES[id] for id in self.order) <= BUDGET
        assert counts["hits"] == self.hits
        assert counts["failed"] == self.failed
        assert counts["loads"] - counts["evictions"] == counts["resident"] == len(self.order)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            status = self.pool.status()
            assert set(status.index[status["resident"]]) == set(self.order)
            assert set(status.index[status["pinned"]]) == self.pinned


TestLRU = LRU.TestCase
TestLRU.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_use_keeps_a_model_longer_than_others() -> None:
    pool = pool_of()
    pool.preload("a", "b", "a", "c")
    assert pool.resident() == {"a": 3, "c": 5}
    pool.preload("a", "b")
    assert pool.resident() == {"a": 3, "b": 4}


def test_calls_at_the_same_time_cost_hardly_any_hits_of_an_ideal_cache() -> None:
    popularity = 1 / np.arange(1, 41)
    drawn = np.random.default_rng(0).choice(40, 4_000, p=popularity / popularity.sum())
    requests = [str(number) for number in drawn]
    pool = pool_of(lambda id: Weights(id, 1), 8, size=lambda id: 1)
    held: deque[ExitStack] = deque()
    for id in requests:
        if len(held) == 4:
            held.popleft().close()
        held.append(ExitStack())
        held[-1].enter_context(pool.use(id))
    assert pool.counts()["hits"] >= 0.99 * ideal_hits(requests, 8)
    while held:
        held.pop().close()


def test_concurrent_calls_load_a_model_once() -> None:
    started, calls = threading.Barrier(8), []

    def slow(id: str) -> Weights:
        calls.append(id)
        threading.Event().wait(0.05)
        return load(id)

    pool = pool_of(slow)

    def use(_: int) -> str:
        started.wait()
        with pool.use("a") as model:
            return model.id

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(use, range(8))) == ["a"] * 8
    assert calls == ["a"]
    assert pool.counts()["hits"] == 7
    assert pool.status().loc["a", "in_use"] == 0


def test_a_loading_that_fails_fails_only_its_calls_and_is_tried_again() -> None:
    started, errors = threading.Barrier(4), [OSError("no disk"), None]

    def flaky(id: str) -> Weights:
        threading.Event().wait(0.05)
        error = errors.pop(0) if id == "a" else None
        if error:
            raise error
        return load(id)

    pool = pool_of(flaky)

    def use(id: str) -> str:
        started.wait()
        with suppress(MlkitError), pool.use(id) as model:
            return model.id
        return "failed"

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(use, ["a", "a", "b", "a"]))
    assert outcomes[2] == "b"
    assert "failed" in outcomes
    with pool.use("a") as model:
        assert model.id == "a"
    with pytest.raises(InputError, match="no model z"), pool.use("z"):
        pass


def test_an_error_of_a_loader_says_which_model() -> None:
    def broken(id: str) -> Weights:
        raise OSError("no disk")

    pool = pool_of(broken)
    with pytest.raises(MlkitError, match="b: the model could not be loaded: OSError: no disk"):
        pool.preload("b")
    assert pool.status().empty
    assert pool.counts()["failed"] == 1


def test_an_interrupted_loading_is_taken_over_by_a_call_that_waits() -> None:
    loading, interrupted = threading.Event(), threading.Event()

    def first_interrupted(id: str) -> Weights:
        if not loading.is_set():
            loading.set()
            interrupted.wait(5)
            raise KeyboardInterrupt
        return load(id)

    pool = pool_of(first_interrupted)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.preload, "a")
        loading.wait(5)
        second = threads.submit(pool.preload, "a")
        while pool._slots["a"].users < 2:
            pass
        interrupted.set()
        second.result(5)
        assert isinstance(first.exception(5), KeyboardInterrupt)
    assert pool.counts()["resident"] == 1


def test_a_call_waits_for_models_in_use_to_make_room() -> None:
    pool = pool_of(wait_s=5)
    with ThreadPoolExecutor(1) as threads:
        with pool.use("b"), pool.use("c"):
            waiting = threads.submit(pool.preload, "a")
            assert pool.resident() == {"b": 4, "c": 5}
            assert not waiting.done()
        waiting.result(5)
    assert pool.resident() == {"b": 4, "a": 3} or pool.resident() == {"c": 5, "a": 3}


@pytest.mark.parametrize("declared", [True, False])
def test_the_budget_is_exceeded_by_one_model_at_most(declared: bool) -> None:
    live, most = [], [0]

    class Counted:
        nbytes = 2

        def __init__(self) -> None:
            live.append(1)
            most.append(len(live))

        def __del__(self) -> None:
            live.pop()

    pool = pool_of(lambda id: Counted(), 8, size=(lambda id: 2) if declared else None, wait_s=5)
    rng = np.random.default_rng(0)

    def use(id: str) -> None:
        with pool.use(id):
            pass

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, map(str, rng.integers(0, 20, 400))))
    assert max(most) <= 4 + (not declared)
    assert pool.counts()["failed"] == 0


@pytest.mark.parametrize("declared", [True, False])
def test_a_model_beyond_the_budget_is_an_error_and_the_others_stay(declared: bool) -> None:
    pool = pool_of(size=SIZES.__getitem__ if declared else None)
    pool.preload("a", "b")
    with pytest.raises(MlkitError, match=r"huge: .*not fit(.|\n)*at most 10 bytes(.|\n)*11 bytes"):
        pool.preload("huge")
    assert pool.status()["resident"].all()
    with pytest.raises(DefinitionError, match="at least one byte"):
        pool_of(budget=0)


def test_sizes_are_measured_or_must_be_said() -> None:
    pool = pool_of(lambda id: nn.Sequential(*[nn.Linear(3, 2)] * 2), 100)
    pool.preload("tied")
    assert pool.status().loc["tied", "bytes"] == 4 * (3 * 2 + 2)
    with pytest.raises(DefinitionError, match="the size of the model is not known"):
        pool_of(lambda id: object()).preload("x")
    with pytest.raises(DefinitionError, match="size of the model is not known"):
        pool_of(lambda id: type("Odd", (), {"nbytes": "3"})()).preload("x")


def test_a_report_has_the_models_last_used_first_and_their_states() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(id: str) -> Weights:
        if id == "d":
            loading.set()
            go_on.wait(5)
        return load(id)

    pool = pool_of(slow, size=SIZES.__getitem__)
    pool.pin("a")
    pool.preload("b")
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(pool.preload, "d")
        assert loading.wait(5)
        assert pool.report(2)["models"] == [["d", 2, "loading"], ["b", 4, "resident"]]
        go_on.set()
        call.result()
    report = pool.report(9)
    assert report.pop("models")[-1] == ["a", 3, "pinned"]
    assert report == pool.counts()


def test_a_pool_is_not_sent() -> None:
    with pytest.raises(TypeError, match=r"resource\(open_pool\)"):
        pickle.dumps(pool_of())


def linear() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.fixture
def three(store) -> list[Artefact]:
    x = np.zeros((1, 2), np.float32)
    return [
        models.save(linear(), "net", example=x, builder=linear, labels=["yes", "no"])
        for _ in range(3)
    ]


def test_models_of_the_store_are_kept_by_version_and_aliases_followed(three) -> None:
    pool = ModelPool(budget_bytes=2 * three[0].nbytes)
    models.set_alias("net@production", "v1")
    with pool.use("net@production") as first, pool.use("net:v1") as same:
        assert first is same
    models.set_alias("net@production", "v2")
    with pool.use("net@production") as second:
        assert second.id == "net:v2"
    with pool.use("net") as latest:
        assert latest.id == "net:v3"
    assert pool.status()["resident"].to_dict() == {"net:v2": True, "net:v3": True, "net:v1": False}
    assert str(pool) == "<pool of 2 models, 0 of 0 MB>"


def test_aliases_are_followed_for_a_class_that_cannot_be_imported_as_well(store) -> None:
    class Local(nn.Linear):
        pass

    sizes = {"in_features": 2, "out_features": 2}
    for _ in range(2):
        models.save(Local(**sizes), "net", example=np.zeros((1, 2), np.float32), kwargs=sizes)
    pool = ModelPool(builder=Local, budget_bytes=10**6)
    for version in ("v1", "v2"):
        models.set_alias("net@production", version)
        with pool.use("net@production") as model:
            assert model.id == f"net:{version}"
            assert type(model.module) is Local


@pytest.mark.parametrize("preprocess", [None, models.Preprocess(channels_first=False)])
def test_the_memory_of_a_dropped_model_is_free_at_once(store, preprocess) -> None:
    x = np.zeros((1, 2), np.float32)
    for _ in range(2):
        models.save(linear(), "net", example=x, builder=linear, preprocess=preprocess)
    pool = ModelPool(budget_bytes=models.load("net").nbytes)
    gc.disable()
    try:
        with pool.use("net:v1") as model:
            model(x)
            module = weakref.ref(model.module)
        del model
        pool.preload("net:v2")
        assert module() is None
    finally:
        gc.enable()


def test_a_batch_is_split_by_model_and_an_unknown_one_fails_alone(three) -> None:
    batches = []

    def open_pool() -> ModelPool[Artefact]:
        return ModelPool(budget_bytes=three[0].nbytes)

    @batched_step(max_batch_size=8)
    def classify(
        rows: list[list[float]],
        model_ids: list[str],
        *,
        pool: ModelPool[Artefact] = resource(open_pool),
    ) -> list[str]:
        batch, labels = np.array(rows, np.float32), np.empty(len(rows), object)
        for model, places in pool.by_model(model_ids):
            batches.append((model.id, len(places)))
            labels[places] = [model.labels[i] for i in model(batch[places]).argmax(axis=1)]
        return labels.tolist()

    @pipeline
    def answer(row: list[float], model_id: str) -> str:
        return classify(row, model_id)

    rows = [[1.0, i] for i in range(6)]
    ids = ["net:v1", "net:v2", "net:v1", "net:v9", "net:v2", "net:v1"]
    requests = [{"row": row, "model_id": id} for row, id in zip(rows, ids, strict=True)]
    del requests[3]
    arguments = [list(column) for column in zip(*(r.values() for r in requests), strict=True)]
    assert len(classify.fn(*arguments, pool=open_pool())) == 5
    assert batches == [("net:v1", 3), ("net:v2", 2)]
    answers = answer.map(requests)
    for request, label in zip(requests, answers, strict=True):
        logits = models.load(request["model_id"])(np.array([request["row"]], np.float32))
        assert label == ["yes", "no"][logits.argmax()]
    with pytest.raises(StepError, match="no such version") as caught:
        answer([1.0, 2.0], "net:v9")
    assert caught.value.status == 422
    table = answer.map([*requests, {"row": [1.0, 2.0], "model_id": "net:v9"}], on_error="keep")
    assert table[:-1] == answers
    assert isinstance(table[-1], StepError)


class Log(nn.Module):
    """NaN for what is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


def wide() -> nn.Module:
    return nn.Linear(3, 2)


def large() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4_000), nn.Linear(4_000, 2))


def saved(builder=linear, name="bad", width=2) -> Path:
    x = np.ones((1, width), np.float32)
    return models.save(builder(), name, example=x, builder=builder).folder


def tampered() -> None:
    file = saved() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")


BAD_MODELS = {
    "a missing file": (lambda: (saved() / "model.safetensors").unlink(), 500, "file is missing"),
    "a missing manifest": (lambda: (saved() / "manifest.json").unlink(), 500, "no artefact"),
    "another hash": (tampered, 500, "has changed since it was saved(.|\n)*expected sha256"),
    "another shape": (lambda: saved(wide, width=3), 500, r"expected float32 \[N, 3\], got"),
    "NaN as a result": (lambda: saved(Log), 500, "output 0 of the model is NaN"),
    "more than the budget": (lambda: saved(large), 500, "does not fit into the pool"),
    "an unknown id": (lambda: None, 422, "there is no such model: bad"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_items_of_a_bad_model_fail_alone_and_say_why(three, case) -> None:
    damage, status, message = BAD_MODELS[case]
    damage()

    def open_pool() -> ModelPool[Artefact]:
        return ModelPool(budget_bytes=4 * three[0].nbytes)

    @batched_step(max_batch_size=8)
    def scores_of(
        rows: list[list[float]],
        model_ids: list[str],
        *,
        pool: ModelPool[Artefact] = resource(open_pool),
    ) -> list[list[float]]:
        batch, scores = np.array(rows, np.float32), np.empty((len(rows), 2), np.float32)
        for model, places in pool.by_model(model_ids):
            scores[places] = model(batch[places])
        return scores.tolist()

    @pipeline
    def score(row: list[float], model_id: str) -> list[float]:
        return scores_of(row, model_id)

    ids = ["net:v1", "bad", "net:v2", "net:v1", "bad", "net:v3"]
    requests = [{"row": [-1.0, i], "model_id": id} for i, id in enumerate(ids)]
    results = score.map(requests, on_error="keep")
    for request, result in zip(requests, results, strict=True):
        if request["model_id"] == "bad":
            assert isinstance(result, StepError)
            assert result.status == status
            assert re.search(message, str(result))
        else:
            assert result == pytest.approx(score(**request))
