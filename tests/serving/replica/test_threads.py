"""How many threads the numerical libraries of a replica use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from mlkit.serving.replica.threads import limit_threads


@pytest.fixture(autouse=True)
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    np.ones((2, 2)) @ np.ones((2, 2))  # NumPy's BLAS is loaded
    with threadpool_limits(3):
        yield


def blas_threads() -> set[int]:
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_libraries_that_were_loaded_before_follow_the_environment(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    limit_threads()
    assert blas_threads() == {threads}


def test_a_variable_of_the_library_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    blas = ThreadpoolController().select(user_api="blas").lib_controllers
    for library in blas:
        monkeypatch.setenv(f"{library.internal_api.upper()}_NUM_THREADS", "2")
    limit_threads()
    assert blas_threads() == {2}


@pytest.mark.parametrize("value", [None, "", "0", "many", "4,2"])
def test_without_a_number_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    limit_threads()
    assert blas_threads() == {3}


def test_torch_that_was_loaded_before_follows_in_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        limit_threads()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
    finally:
        torch.set_num_threads(before)
