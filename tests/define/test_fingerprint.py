from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.define import resource
from mlkit.define.fingerprint import fingerprint

Cell = Callable[..., dict[str, Any]]

STEP = """
    from dataclasses import dataclass
    from enum import Enum
    from functools import cache, partial
    from pydantic import BaseModel, Field, validate_call
    from mlkit import batched_step, resource, step

    class Kind(Enum):
        shirt = 1
        shoe = 2

    class Label(BaseModel):
        name: str
        score: float = Field(default=0.5, ge=0)
        tags: list[str] = Field(default_factory=lambda: ["new"])

    @dataclass
    class Options:
        sizes: tuple[int, ...] = (1, 2)

        def doubled(self):
            return [2 * size for size in self.sizes]

    options = Options()
    names = {"a": 1, "b": 2}
    known = {"red", "green", "blue"}
    half = partial(round, ndigits=2)

    @cache
    def scale(x: float) -> float:
        return half(x) * 2

    @validate_call(validate_return=True)
    def checked(x: int) -> int:
        return 5

    class Shop:
        @validate_call
        def price(self, x: int) -> int:
            return 7

    def load():
        return 3

    @step
    def classify(x: float, limit: float = 0.5, *, model: int = resource(load)) -> Label:
        def inner(y):
            return y if "red" in known else names
        if x in {"p", "q", "r"}:
            return options.doubled() + [checked(1), Shop().price(2)]
        return Label(name=str(Kind.shirt), score=inner(scale(x)) > limit)
"""


def changed(cell: Cell, old: str, new: str) -> bool:
    """Whether the step's fingerprint changes when a piece of its cell's source does."""
    assert old in STEP
    before = cell(STEP)["classify"]
    after = cell(STEP.replace(old, new))["classify"]
    return fingerprint(before) != fingerprint(after)


def test_running_the_same_cell_again_changes_nothing(cell: Cell) -> None:
    first = cell(STEP, filename="<cell 1>")["classify"]
    again = cell(STEP, filename="/tmp/other/file.py", lines_before=40)["classify"]
    assert first.fn is not again.fn
    assert fingerprint(first) == fingerprint(again)


def test_comments_do_not_count(cell: Cell) -> None:
    assert not changed(cell, "def inner(y):", "def inner(y):  # the heart of it")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> limit", ">= limit"),
        ("limit: float = 0.5", "limit: float = 0.6"),
        ('return y if "red"', 'return x if "red"'),
        ("half(x) * 2", "half(x) * 3"),
        ("@cache\n", "\n"),
        ("return 3", "return 4"),
        ("return 5", "return 6"),
        ("return 7", "return 8"),
        ("validate_return=True", "validate_return=False"),
        ('"b": 2', '"b": 3'),
        ('"green", ', ""),
        ('"p", "q"', '"p", "s"'),
        ("ndigits=2", "ndigits=3"),
        ("sizes: tuple[int, ...] = (1, 2)", "sizes: tuple[int, ...] = (1, 3)"),
        ("2 * size", "3 * size"),
        ("shirt = 1", "shirt = 3"),
        ("default=0.5", "default=0.6"),
        ("ge=0", "ge=1"),
        ('["new"]', '["old"]'),
        ("score: float = Field", "score: int = Field"),
        ("limit: float = 0.5, *", "limit: int = 0.5, *"),
        ("@step\n", "@batched_step(max_batch_size=4)\n"),
    ],
)
def test_what_a_step_uses_counts(cell: Cell, old: str, new: str) -> None:
    assert changed(cell, old, new)


def test_keyword_only_parameters_count(cell: Cell) -> None:
    plain = cell("def f(a, b): return a")["f"]
    starred = cell("def f(a, *, b): return a")["f"]
    assert fingerprint(plain) != fingerprint(starred)


def test_a_type_that_only_an_annotation_names_counts(cell: Cell) -> None:
    source = """
        from pydantic import BaseModel
        class Label(BaseModel):
            name: str
        def f(x: int) -> list[Label]: return []
    """
    wider = source.replace("name: str", "name: str; score: float")
    assert fingerprint(cell(source)["f"]) != fingerprint(cell(wider)["f"])


def test_a_base_class_counts(cell: Cell) -> None:
    source = """
        class Base:
            def go(self): return 1
        class Model(Base): pass
        def f(): return Model().go()
    """
    other = source.replace("return 1", "return 2")
    assert fingerprint(cell(source)["f"]) != fingerprint(cell(other)["f"])


def test_a_property_counts(cell: Cell) -> None:
    source = """
        class Model:
            @property
            def size(self): return 1
        def f(): return Model().size
    """
    other = source.replace("return 1", "return 2")
    assert fingerprint(cell(source)["f"]) != fingerprint(cell(other)["f"])


def test_an_instance_counts_by_its_state_and_its_class(cell: Cell) -> None:
    source = """
        class Model:
            def __init__(self, k): self.k = k
            def go(self): return self.k
        m = Model(1)
        def f(): return m.go()
    """
    same, state, code = (
        fingerprint(cell(text)["f"])
        for text in (
            source,
            source.replace("Model(1)", "Model(2)"),
            source.replace("self.k\n        m", "0\n        m"),
        )
    )
    assert same == fingerprint(cell(source)["f"])
    assert len({same, state, code}) == 3


def test_a_closure_counts() -> None:
    def made(k: int) -> Callable[[], int]:
        return lambda: k

    assert fingerprint(made(1)) == fingerprint(made(1))
    assert fingerprint(made(1)) != fingerprint(made(2))


def test_functions_that_call_each_other_are_followed_once(cell: Cell) -> None:
    source = """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
    """
    other = source.replace("n != 0", "n > 0")
    assert fingerprint(cell(source)["even"]) == fingerprint(cell(source)["even"])
    assert fingerprint(cell(source)["even"]) != fingerprint(cell(other)["even"])


def test_which_of_two_functions_stands_where_counts(cell: Cell) -> None:
    source = """
        def g(): return 1
        def h(): return 2
        a, b, c = g, h, {third}
        def f(): return a() + b() + c()
    """
    one, two = (fingerprint(cell(source.format(third=name))["f"]) for name in "gh")
    assert one != two


def test_a_helper_of_a_local_module_counts(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "import helpers_of_mine\ndef f(): return helpers_of_mine.go()"

    def fingerprinted(text: str) -> str:
        (tmp_path / "helpers_of_mine.py").write_text(text)
        sys.modules.pop("helpers_of_mine", None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return fingerprint(cell(source)["f"])

    first = fingerprinted("def go(): return 1\ndef unused(): return 1\n")
    assert fingerprinted("def go(): return 1\ndef unused(): return 2\n") == first
    assert fingerprinted("def go(): return 2\n") != first


def test_a_retrained_file_is_not_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "model.joblib"
    kept: Any = resource(dict, files=[file])
    missing = fingerprint(kept)
    file.write_bytes(b"first")
    first = fingerprint(kept)
    file.write_bytes(b"second")
    assert len({missing, first, fingerprint(kept)}) == 3


def test_a_folder_counts_by_all_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"first")
    kept: Any = resource(dict, files=[tmp_path])
    first = fingerprint(kept)
    assert fingerprint(kept) == first
    (tmp_path / "deep" / "weights").write_bytes(b"second")
    assert fingerprint(kept) != first


def test_a_shipped_value_counts() -> None:
    import numpy as np

    one, same, two = (fingerprint(resource(value=np.full(3, n))) for n in (1.0, 1.0, 2.0))
    assert one == same != two


class _Holder:
    def __init__(self, content: Any) -> None:
        self.content = content


def _frame(numbers: Any) -> Any:
    import pandas as pd

    return pd.DataFrame({"number": numbers, "text": [f"row {number}" for number in numbers]})


# Pickle writes what is larger than 64 KiB in another way than the rest.
@pytest.mark.parametrize("size", [10, 16_383, 16_384, 40_000])
@pytest.mark.parametrize(
    "kind",
    [
        lambda numbers: numbers,
        lambda numbers: np.asfortranarray(np.stack([numbers, numbers])),
        lambda numbers: np.stack([numbers, numbers], axis=1)[:, 1],  # strided
        lambda numbers: numbers.tobytes(),
        lambda numbers: bytearray(numbers.tobytes()),
        lambda numbers: str(numbers.tolist()),
        lambda numbers: torch.from_numpy(numbers),
        _frame,
    ],
    ids=["array", "fortran", "strided", "bytes", "bytearray", "text", "tensor", "frame"],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}, _Holder])
def test_every_element_of_a_value_counts(kind: Any, wrap: Any, size: int) -> None:
    numbers = np.arange(size, dtype=np.float32)
    changed = np.concatenate([numbers[:-1], [-1]]).astype(np.float32)
    assert fingerprint(wrap(kind(numbers))) == fingerprint(wrap(kind(numbers.copy())))
    assert fingerprint(wrap(kind(numbers))) != fingerprint(wrap(kind(changed)))


def test_what_cannot_be_pickled_counts_by_its_type() -> None:
    import threading

    assert fingerprint([threading.Lock()]) == fingerprint([threading.Lock()])


def test_the_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(STEP)
        + "\nfrom mlkit.define.fingerprint import fingerprint\nprint(fingerprint(classify))"
    )
    found = {
        subprocess.run(
            [sys.executable, script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1, found
    assert found.pop().strip()
