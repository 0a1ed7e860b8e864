"""What is built once per process."""

import asyncio
import functools
import gc
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlkit import pipeline
from mlkit.define import batched_step, resource, step
from mlkit.define.fingerprint import fingerprint
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


# ---- loaders that open and close ----------------------------------------------------------------

events: list[str] = []


@pytest.fixture(autouse=True)
def _no_events() -> None:
    # A new list: what an earlier test has left to the garbage collector is closed at any time.
    global events
    events = []


class Client:
    """A client that is bound to the event loop that it was created on, if any."""

    def __init__(self) -> None:
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None
        self.events = events
        events.append("open")

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, *error: object) -> None:
        self.events.append("exit")


def load_plain() -> Client:
    return Client()


async def load_async() -> Client:
    return Client()


def load_generator() -> Iterator[Client]:
    client = Client()
    yield client
    client.events.append("closed")


async def load_async_generator() -> AsyncIterator[Client]:
    client = Client()
    yield client
    assert asyncio.get_running_loop() is client.loop
    client.events.append("closed")


OPENING = {
    "generator": load_generator,
    "async generator": load_async_generator,
    "contextmanager": contextmanager(load_generator),
    "asynccontextmanager": asynccontextmanager(load_async_generator),
    "function that returns one": lambda: contextmanager(load_generator)(),
}


@pytest.mark.parametrize("load", [load_plain, load_async, *OPENING.values()])
def test_a_loader_of_any_kind_gives_its_value_to_steps(load: Any) -> None:
    @step
    def use(x: int, *, client: Any = resource(load)) -> bool:
        return isinstance(client, Client)

    assert use(1) is True
    assert use(2) is True
    assert events == ["open"]


@pytest.mark.parametrize("load", [load_async, load_async_generator])
def test_asynchronous_loaders_run_on_the_loop_of_async_steps(load: Any) -> None:
    @step
    async def use(x: int, *, client: Any = resource(load)) -> bool:
        return client.loop is asyncio.get_running_loop()

    @pipeline
    def pipe(x: int) -> bool:
        return use(x)

    assert use(1) is True
    assert pipe(1) is True
    assert events == ["open"]


@pytest.mark.parametrize("load", OPENING.values(), ids=OPENING)
def test_what_a_loader_opened_is_closed_once_and_built_again_on_demand(load: Any) -> None:
    kept = made(load)
    first = kept.get()
    kept.close()
    kept.close()
    assert events == ["open", "closed"]
    assert not kept.built
    assert kept.get() is not first


@pytest.mark.parametrize("load", OPENING.values(), ids=OPENING)
def test_it_is_closed_when_its_step_is_redefined(load: Any) -> None:
    kept = made(load)
    kept.get()
    del kept
    gc.collect()
    assert events == ["open", "closed"]


def test_it_is_closed_at_exit() -> None:
    code = """
from mlkit import pipeline, resource, step
import asyncio

async def load():
    yield asyncio.get_running_loop()
    print("closed")

def load_plain():
    yield 1
    print("closed too")

@step
async def use(x: int, *, loop=resource(load), one=resource(load_plain)) -> bool:
    return loop is asyncio.get_running_loop()

@pipeline
def pipe(x: int) -> bool:
    return use(x)

print(pipe(1))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split("\n")) == ["", "True", "closed", "closed too"], done.stderr


def test_a_value_that_is_a_context_manager_is_a_value() -> None:
    kept = made(load_plain)
    assert isinstance(kept.get(), Client)
    kept.close()
    assert "exit" not in events


def test_each_loop_has_its_own_client() -> None:
    kept = made(load_async_generator)
    here = kept.get()

    async def elsewhere() -> None:
        loop = asyncio.get_running_loop()
        client = await asyncio.to_thread(kept.get, loop)
        assert client.loop is loop
        assert client is await asyncio.to_thread(kept.get, loop)
        await asyncio.to_thread(kept.close, loop)

    asyncio.run(elsewhere())
    assert events == ["open", "open", "closed"]
    assert kept.get() is here


async def fail_async() -> None:
    raise ValueError("no network")


def fail_generator() -> Iterator[None]:
    raise ValueError("no network")
    yield


async def fail_async_generator() -> AsyncIterator[None]:
    raise ValueError("no network")
    yield


@pytest.mark.parametrize("load", [fail_async, fail_generator, fail_async_generator])
def test_a_loader_that_fails_is_named(load: Any) -> None:
    with pytest.raises(ValueError, match="no network") as caught:
        made(load).get()
    assert caught.value.__notes__ == [f"Raised by the loader of resource {load.__name__!r}."]


def test_a_teardown_that_fails_is_logged_with_its_resource(caplog: Any) -> None:
    def load_table() -> Iterator[int]:
        yield 1
        raise ValueError("gone already")

    kept = made(load_table)
    kept.get()
    kept.close()
    assert "the teardown of resource 'load_table' failed" in caplog.text
    assert "gone already" in caplog.text


# ---- one call at a time -------------------------------------------------------------------------


class Busy:
    """Notes how many calls use it at the same time."""

    def __init__(self) -> None:
        self.users = 0
        self.most = 0

    def __enter__(self) -> None:
        self.users += 1
        self.most = max(self.most, self.users)

    def __exit__(self, *error: object) -> None:
        self.users -= 1


@pytest.mark.parametrize("exclusive", [True, False])
def test_an_exclusive_resource_is_used_by_one_call_at_a_time(exclusive: bool) -> None:
    busy = Busy()
    shared: Any = resource(lambda: busy, exclusive=exclusive)

    @step
    def one(x: int, *, model: Any = shared) -> int:
        with model:
            time.sleep(0.002)
        return x

    @step
    async def two(x: int, *, model: Any = shared) -> int:
        with model:
            await asyncio.sleep(0.002)
        return x

    @batched_step(max_batch_size=2)
    def three(x: list[int], *, model: Any = shared) -> list[int]:
        with model:
            time.sleep(0.002)
        return x

    @pipeline
    def pipe(x: int) -> tuple[int, int, int]:
        return one(x), two(x), three(x)

    assert pipe.map(range(10), progress=False, workers=4) == [(x, x, x) for x in range(10)]
    assert (busy.most == 1) is exclusive


def test_exclusive_is_kept_when_it_travels_and_is_part_of_the_digest() -> None:
    kept = made(dict, exclusive=True)
    assert pickle.loads(pickle.dumps(kept)).turn is not None
    assert fingerprint(kept) != fingerprint(made(dict))


def needs_a_path(path: str) -> str:
    return path


def needs_a_resource(*, settings: Any = resource(dict)) -> Any:
    return settings


@pytest.mark.parametrize(
    ("load", "got", "fix"),
    [
        (needs_a_path, "'path' of needs_a_path", r"resource\(lambda: needs_a_path\(...\)\)"),
        (needs_a_resource, "'settings' of needs_a_resource", r"call dict\(\) in needs_a_resource"),
    ],
)
def test_a_loader_with_parameters_is_refused_at_once(load: Any, got: str, fix: str) -> None:
    with pytest.raises(DefinitionError, match="a loader") as caught:
        resource(load)
    assert got in str(caught.value.got)
    assert re.search(fix, str(caught.value.fix))


@pytest.mark.parametrize(
    "load", [dict, Busy, functools.partial(needs_a_path, "a"), lambda path="a", *more: path]
)
def test_a_loader_may_have_parameters_that_need_no_argument(load: Any) -> None:
    made(load).get()
