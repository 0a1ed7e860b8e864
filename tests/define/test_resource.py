"""What is built once per process."""

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlkit.define import resource, step
from mlkit.define.resource import Resource
from mlkit.errors import DefinitionError


def made(*args: Any, **kwargs: Any) -> Resource[Any]:
    """A resource as what it is, not as what its type says for the step's sake."""
    return resource(*args, **kwargs)  # type: ignore[no-any-return]


def test_it_is_built_at_the_first_use_and_once() -> None:
    built: list[int] = []
    kept = made(lambda: built.append(1) or object())
    assert not kept.built
    assert kept.get() is kept.get()
    assert (len(built), kept.built) == (1, True)


def test_threads_that_ask_at_once_get_the_same_one() -> None:
    built: list[int] = []
    barrier = threading.Barrier(8)

    def load() -> object:
        built.append(1)
        time.sleep(0.01)  # long enough for all others to ask meanwhile
        return object()

    kept, got = made(load), []

    def ask() -> None:
        barrier.wait()
        got.append(kept.get())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(set(map(id, got))) == 1


def test_a_loader_that_fails_is_asked_again() -> None:
    tries = iter([ValueError("no network"), "model"])

    def load() -> str:
        outcome = next(tries)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    kept = made(load)
    with pytest.raises(ValueError, match="no network"):
        kept.get()
    assert kept.get() == "model"


def test_none_is_a_value_like_any_other() -> None:
    built: list[int] = []
    kept = made(lambda: built.append(1))
    assert kept.get() is None
    assert kept.get() is None
    assert len(built) == 1
    assert made(value=None).get() is None


def test_two_steps_with_one_resource_share_what_is_built() -> None:
    kept: Any = resource(object)

    @step
    def one(x: int, *, model: object = kept) -> int:
        return id(model)

    @step
    def two(x: int, *, model: object = kept) -> int:
        return id(model)

    assert one(1) == two(1)


def test_a_value_is_handed_on_as_it_is() -> None:
    value = [1]
    assert made(value=value).get() is value


def test_what_was_built_stays_behind_when_it_travels() -> None:
    kept = made(dict, files=["model.joblib"])
    kept.get()["lock"] = threading.Lock()  # which could not be pickled
    again = pickle.loads(pickle.dumps(kept))
    assert not again.built
    assert again.files == ("model.joblib",)
    assert pickle.loads(pickle.dumps(made(value=[1]))).get() == [1]


def test_names_say_what_it_is() -> None:
    def load_net() -> int:
        return 1

    assert made(load_net).name == "load_net"
    assert made(value=[1]).name == "list"
    assert repr(made(load_net)) == "resource(load_net)"
    assert repr(made(value=[1])) == "resource(value=<list>)"


def test_one_file_may_be_named_without_a_list() -> None:
    assert made(dict, files="a.joblib").files == ("a.joblib",)
    assert made(dict, files=Path("a.joblib")).files == ("a.joblib",)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "either a loader or a value"),
        ((dict,), {"value": 1}, "either a loader or a value"),
        ((), {"value": 1, "files": ["x"]}, "requires a loader"),
        ((5,), {}, "callable without arguments"),
    ],
)
def test_misuse_is_refused_at_once(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        resource(*args, **kwargs)
