"""The exported module reads as if it had been written by hand."""

from __future__ import annotations

import json
import linecache
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.compilerop import CachingCompiler

from mlkit import pipeline
from mlkit.errors import ExportError
from mlkit.export import export
from mlkit.export.cells import Cell, cells_of_main, read_notebook, statements_of
from mlkit.export.manifests import dockerfile
from mlkit.export.module import import_block, module_text
from mlkit.export.reach import Imported, needed, reached

Notebook = Callable[..., dict[str, Any]]


def whole_module(run: Notebook, *sources: str, name: str = "answer") -> str:
    namespace = run(*sources)
    reach = reached([name], statements_of(cells_of_main(namespace)), namespace)
    assert reach.problems == []
    return module_text([name], "Doc.", reach, {}, set())


def module_of(run: Notebook, *sources: str, name: str = "answer") -> str:
    """What a module of a variable says, without its docstring and ``__all__``."""
    text = whole_module(run, *sources, name=name)
    return re.sub(r"\n*__all__ = .*\n", "\n", text.removeprefix('"""Doc."""')).strip("\n")


def problems_of(run: Notebook, *sources: str, name: str = "answer") -> list[str]:
    namespace = run(*sources)
    reach = reached([name], statements_of(cells_of_main(namespace)), namespace)
    return [str(problem) for problem in reach.problems]


def test_only_what_is_reached_is_there_in_its_order(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        """
        import json
        import math
        import os

        RATE = 1.5  # per second
        UNUSED = 3
        """,
        """
        def helper(x):
            return math.floor(x * RATE)


        def unused():
            return os.getcwd()
        """,
        """
        print(helper(2))

        # What is asked.
        def answer(x: float) -> int:
            return helper(x)

        answer(1)
        """,
    )
    assert text == dedent(
        """
        import math

        RATE = 1.5  # per second


        def helper(x):
            return math.floor(x * RATE)


        # What is asked.
        def answer(x: float) -> int:
            return helper(x)
        """
    ).strip("\n")


def test_a_local_variable_reaches_nothing_of_its_name(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        "import numpy as np\nrow = np.random.rand(3)\nmodel = iter([1])",
        "def answer(x):\n    model = x\n    return [row + model for row in [1, 2]]",
    )
    assert "numpy" not in text
    assert "iter" not in text


def test_the_last_definition_counts(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        "def helper():\n    return 1",
        "def answer():\n    return helper()",
        "def helper():\n    return 2",
    )
    assert "return 2" in text
    assert "return 1" not in text


def test_changes_in_place_are_taken_along(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        "import re\nRULES = {'a': re.compile('a')}",
        "RULES['b'] = re.compile('b')\nprint(len(RULES))",
        "def answer(text):\n    return [name for name, rule in RULES.items() if rule.search(text)]",
    )
    assert "RULES['b'] = re.compile('b')" in text
    assert "print" not in text


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("X = 3", "X = 3"),
        ("X = list('ab') + ['c']", "X = list('ab') + ['c']"),
        ("X = [1]\nX.append(2)", "X = [1, 2]"),
        ("X = sum(x * x for x in range(9)) / 9", "X = sum(x * x for x in range(9)) / 9"),
        ("import random\nX = random.Random(3).randrange(9)", "X = 3"),
        ("for X in 'ab': pass", 'X = "b"'),
        ("X, Y = 'ab'.split(), 2", 'X = ["ab"]'),
        ("import numpy as np\nX = np.arange(3) / 2", "X = np.arange(3) / 2"),
        ("import numpy as np\nX = np.arange(3)\nX[0] = 7", 'X = artefacts["X"]'),
        ("import numpy as np\nX = np.random.default_rng(0).random(3)", 'X = artefacts["X"]'),
        ("X = {n: 'value' * 10 for n in open(__file__).read()[:9]} if 0 else 1", "X = 1"),
    ],
)
def test_a_value_is_written_down_and_not_computed_again(
    notebook: Notebook, code: str, expected: str
) -> None:
    lines = module_of(notebook, code, "def answer():\n    return X").splitlines()
    assert expected in lines
    assert len([line for line in lines if line.startswith(("X", "for"))]) == 1


def test_annotations_in_quotes_and_registrations_are_reached(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        "from dataclasses import dataclass\nfrom mlkit import codec",
        "@dataclass\nclass Clip:\n    samples: bytes",
        "def to_text(clip):\n    return clip.samples.hex()",
        "def from_text(text):\n    return Clip(bytes.fromhex(text))",
        "codec(Clip, encode=to_text, decode=from_text)",
        "def answer(clip: 'Clip') -> int:\n    return len(clip.samples)",
    )
    assert text.index("class Clip") < text.index("def to_text") < text.index("codec(Clip, enc")


def test_members_of_a_star_import_are_named(notebook: Notebook) -> None:
    text = module_of(notebook, "from math import *", "def answer(x):\n    return floor(x)")
    assert text.startswith("from math import floor\n")


def test_annotations_stay_text(notebook: Notebook) -> None:
    statements = statements_of(
        [Cell("a", "from __future__ import annotations"), Cell("b", "x = 1")]
    )
    assert statements[1].flags


def test_imports_are_sorted_in_sections() -> None:
    imports = {
        Imported("numpy", "", "np"),
        Imported("os"),
        Imported("helpers", "resize"),
        Imported("pathlib", "Path"),
        Imported("mlkit", "step"),
        Imported("mlkit", "Image"),
        Imported("mlkit", "MAX"),
        Imported("__future__", "annotations"),
        Imported("collections", "abc", "c"),
        Imported("x", "a" * 50),
        Imported("x", "b" * 50),
    }
    assert import_block(imports, {"helpers"}) == dedent(
        f"""
        from __future__ import annotations

        import os
        from collections import abc as c
        from pathlib import Path

        import numpy as np
        from mlkit import MAX, Image, step
        from x import (
            {"a" * 50},
            {"b" * 50},
        )

        from helpers import resize
        """
    ).strip("\n")


def test_all_problems_are_named_at_once_with_cell_and_line(
    notebook: Notebook, tmp_path: Path
) -> None:
    found = problems_of(
        notebook,
        "numbers = (n for n in range(3))",
        f"\npath = {str(tmp_path)!r}\nlines = reversed([1])",
        """
        def answer():
            return next(numbers), path, lines
        """,
    )
    places = sorted(problem.partition(": ")[0] for problem in found)
    assert places == ["cell 1, line 1", "cell 2, line 1", "cell 2, line 2"]
    assert all("→" in problem for problem in found)


def test_a_path_of_this_machine_is_a_problem(notebook: Notebook, tmp_path: Path) -> None:
    code = f"def answer():\n    return open({str(tmp_path)!r})"
    (problem,) = problems_of(notebook, "x = 1", code)
    assert problem.startswith("cell 2, line 2: ")


def test_a_variable_without_a_statement_is_a_problem(notebook: Notebook) -> None:
    (problem,) = problems_of(notebook, "globals()['rate'] = 3", "def answer():\n    return rate")
    assert problem.startswith("cell 2, line 1: it uses 'rate'")


def test_only_needed_cells_are_executed() -> None:
    cells = [
        Cell("a", "import os\nos.environ['A'] = name\nname = 'x'"),
        Cell("b", "import ray\nray.init()"),
        Cell("c", "x = 3\ny = x + 1\nfor i in range(y): x += i"),
        Cell("d", "def answer(n):\n    return later(n)"),
        Cell("e", "def later(n):\n    return n + x"),
        Cell("f", "z = 5\nanswer(z)\nanswer(open('x'))"),
    ]
    texts = [statement.text for statement in needed("answer", statements_of(cells))]
    assert texts == [
        "import os",
        "os.environ['A'] = name",
        "x = 3",
        "y = x + 1",
        "for i in range(y): x += i",
        "def answer(n):\n    return later(n)",
        "def later(n):\n    return n + x",
        "z = 5",
    ]


def test_an_application_comes_with_what_is_registered_with_it(notebook: Notebook) -> None:
    text = module_of(
        notebook,
        "from fastapi import APIRouter, FastAPI\n\nlimit = 3",
        "shop = FastAPI()\nitems = APIRouter()\nother = FastAPI()",
        "@items.get('/items')\ndef listed() -> list[int]:\n    return [limit]",
        "shop.include_router(items)",
        "@shop.exception_handler(KeyError)\nasync def missing(request, error):\n    return None",
        "@other.get('/x')\ndef x() -> int:\n    return 1",
        name="shop",
    )
    assert "def listed()" in text
    assert "shop.include_router(items)" in text
    assert "async def missing(" in text
    assert "limit = 3" in text
    assert "other" not in text


def test_magics_are_left_out(tmp_path: Path) -> None:
    sources = ["%%bash\nls", "%%time\nx = 1", "%pip list\nif x:\n    !ls\ny = 2", "# text"]
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    cells.insert(1, {"cell_type": "markdown", "source": ["prose"]})
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    read = read_notebook(file)
    assert [cell.label for cell in read] == ["cell 1", "cell 2", "cell 3", "cell 4"]
    assert [cell.code for cell in read[:3]] == ["", "\nx = 1", "pass\nif x:\n    pass\ny = 2"]


def test_the_history_of_a_kernel_is_its_source() -> None:
    shell = SimpleNamespace(history_manager=SimpleNamespace(input_hist_parsed=["", "x = 1", " "]))
    (cell,) = cells_of_main({"get_ipython": lambda: shell})
    assert (cell.label, cell.code) == ("cell 1", "x = 1")


def test_cells_without_a_history_are_those_that_were_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = CachingCompiler()
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))
    for number, code in enumerate(("x = 1", "\n", "y = x\nx += 1"), 1):
        compiler.cache(code, number)
    manager = SimpleNamespace(input_hist_parsed=[""])
    shell = SimpleNamespace(history_manager=manager, compile=compiler)
    cells = cells_of_main({"get_ipython": lambda: shell})
    assert [(cell.label, cell.lines) for cell in cells] == [
        ("cell 1", ["x = 1"]),
        ("cell 3", ["y = x", "x += 1"]),
    ]


def test_a_pipeline_whose_cell_is_not_known_is_refused(notebook: Notebook, tmp_path: Path) -> None:
    namespace = notebook("from mlkit import step\n\n@step\ndef double(n: int) -> int: ...")
    double = namespace["double"]

    @pipeline
    def doubled(n: int) -> int:
        return double(n)

    vars(sys.modules["__main__"])["doubled"] = doubled
    with pytest.raises(ExportError, match="no known cell assigns it"):
        export(doubled, tmp_path / "out", examples=[1])


def test_a_pipeline_without_a_variable_is_refused(notebook: Notebook, tmp_path: Path) -> None:
    namespace = notebook(
        """
        from mlkit import pipeline, step

        def make():
            @step
            def double(x: int) -> int:
                return 2 * x

            @pipeline
            def twice(x: int) -> int:
                return double(x)

            return twice
        """
    )
    with pytest.raises(ExportError, match="pipeline 'twice', cell 1, line 8: "):
        export(namespace["make"](), tmp_path / "out")


def test_a_folder_with_other_contents_is_kept(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").touch()
    namespace = notebook(
        "from mlkit import pipeline, step\n@step\ndef f(x: int) -> int:\n    return x\n"
        "@pipeline\ndef p(x: int) -> int:\n    return f(x)"
    )
    with pytest.raises(ExportError, match="other contents"):
        export(namespace["p"], tmp_path)
    assert (tmp_path / "keep.txt").exists()


def test_the_text_passes_linter_and_formatter(notebook: Notebook) -> None:
    text = whole_module(
        notebook,
        "import json, math\nimport numpy as np\nfrom typing import Any",
        'means = np.random.rand(3)\n\nLIMIT = 3\nNAMES = ["a"] * LIMIT\nSEEN = sorted("ab")',
        "class A:\n    x: Any = LIMIT",
        "def answer(x: A) -> str:\n    return json.dumps([NAMES, SEEN, math.pi, list(means)])",
    )
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--select", "E,F,I,UP,B,C4,SIM"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *command, "--isolated", "-"],
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + text


def test_the_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    file = tmp_path / "Dockerfile"
    file.write_text(dockerfile())
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
