"""What goes to another process arrives there, and what cannot is named."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlkit.define import resource, step
from mlkit.define.code import captured, is_local, local_modules
from mlkit.define.modules import late_modules
from mlkit.define.shippable import problems
from mlkit.define.shipping import LARGE_BYTES, dumps, loads
from mlkit.errors import MlkitError
from mlkit.pipelines import pipeline

Cell = Callable[..., dict[str, Any]]
MODULE = """
    import json
    TABLE = {"a": 1}

    def helper(x):
        return x + TABLE["a"]

    class Thing:
        def go(self):
            return helper(1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Writes a module into a folder, imports it, and forgets it after the test."""
    import importlib
    import textwrap

    def write(name: str, source: str = MODULE, folder: str = "beside") -> ModuleType:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(place)
        made = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return write


def elsewhere(data: bytes, *arguments: Any) -> Any:
    """What a shipped function returns in a fresh process, which has none of our modules' files."""
    code = (
        "import sys, pickle, json\n"
        "fn = pickle.loads(sys.stdin.buffer.read())\n"
        "print(json.dumps(fn(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        input=data,
        capture_output=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_a_cells_function_arrives_with_all_it_uses(cell: Cell) -> None:
    names = cell("""
        from dataclasses import dataclass
        from functools import cache, partial
        import math

        @dataclass
        class Options:
            by: int

        @cache
        def scale(n): return n if n < 2 else scale(n - 1) + scale(n - 2)

        options = Options(3)
        half = partial(divmod, 7)

        def made(k):
            return lambda x: x * k

        times = made(2)

        def f(x):
            return [times(x), scale(10), options.by, half(2), math.floor(1.5)]
    """)
    assert elsewhere(dumps(names["f"]), 5) == [10, 55, 3, [3, 1], 1]


def test_a_type_of_ones_own_arrives(cell: Cell) -> None:
    names = cell("""
        from typing import NewType
        from typing_extensions import TypeAliasType
        UserId = NewType("UserId", int)
        Ids = TypeAliasType("Ids", list[UserId])
        def f(x: UserId) -> UserId: return Ids and UserId(x + 1)
    """)
    assert elsewhere(dumps(names["f"]), 5) == 6


def test_the_sentinels_of_dataclasses_arrive_as_themselves(cell: Cell) -> None:
    names = cell("""
        import dataclasses
        from dataclasses import dataclass, field
        from pydantic import TypeAdapter

        @dataclass
        class Options:
            by: int
            times: int = 2
            names: list[str] = field(default_factory=list)

        def f(x):
            required, default, factory = dataclasses.fields(Options)
            assert required.default is required.default_factory is dataclasses.MISSING
            assert default.default_factory is factory.default is dataclasses.MISSING
            assert dataclasses.replace(Options(1), by=x) == Options(x)
            return [Options(x).names, TypeAdapter(Options).validate_python({"by": x}).times]
    """)
    assert elsewhere(dumps(names["f"]), 5) == [[], 2]


def test_a_steps_function_arrives_without_the_step(cell: Cell) -> None:
    names = cell("""
        from mlkit import step
        @step
        def helper(x: int) -> int: return x + 1
        @step
        def f(x: int) -> int: return helper.fn(x) * 2
    """)
    assert elsewhere(dumps(names["f"].fn), 1) == 4


@pytest.mark.parametrize(
    "source",
    [
        "from {name} import helper\ndef f(x): return helper(x)",
        "import {name} as m\ndef f(x): return m.helper(x)",
        "from {name} import Thing\nthing = Thing()\ndef f(x): return thing.go() + x - 1",
    ],
)
def test_a_module_beside_the_notebook_travels_along(
    cell: Cell, module: Callable[..., ModuleType], source: str
) -> None:
    module("beside_the_notebook")
    names = cell(source.format(name="beside_the_notebook"))
    assert elsewhere(dumps(names["f"]), 5) == 6


def test_an_installed_module_travels_by_name(module: Callable[..., ModuleType]) -> None:
    local = module("not_installed")
    installed = module("installed", folder="lib/python3/site-packages")
    assert is_local(local)
    assert not is_local(installed)
    assert b"TABLE" in dumps(local.helper)
    assert b"TABLE" not in dumps(installed.helper)


def test_a_folder_that_pip_installed_into_is_one_whatever_its_name(
    module: Callable[..., ModuleType],
) -> None:
    installed = module("vendored", folder="target")
    folder = Path(installed.__file__ or "").parent
    (folder / "vendored-1.0.dist-info").mkdir()
    (folder / "vendored-1.0.dist-info" / "RECORD").touch()
    assert not is_local(installed)


def test_a_step_of_an_installed_module_stays_the_same_step(
    module: Callable[..., ModuleType],
) -> None:
    source = "from mlkit import step\n@step\ndef f(x: int) -> int: return x\n"
    installed = module("shop_steps", source, folder="site-packages")
    assert loads(dumps(installed.f)) is installed.f


def test_mlkit_and_the_standard_library_are_no_local_modules() -> None:
    names = {m.__name__ for m in local_modules()}
    assert not {n for n in names if n.split(".")[0] in ("mlkit", "json", "numpy", "__main__")}


def test_a_folder_whose_name_begins_like_ours_is_not_ours() -> None:
    import mlkit

    own = Path(mlkit.__file__).parent
    module = ModuleType("mlkit_more")
    module.__file__ = str(own.parent / "mlkit_more" / "tools.py")
    module.__spec__ = mlkit.__spec__
    assert is_local(module)


def test_errors_arrive_whole() -> None:
    error = MlkitError("what", where="where", fix="fix")
    assert str(loads(dumps(error))) == str(error)


def test_what_a_function_uses_is_found_through_nested_functions(cell: Cell) -> None:
    names = cell("""
        import json
        table, unused = [1], [2]
        def f(x):
            def inner(): return [table for _ in json.loads("[1]")]
            return inner()
    """)
    assert set(captured(names["f"])) == {"table", "json"}


def test_several_threads_may_pack_at_once(module: Callable[..., ModuleType]) -> None:
    local = module("packed_by_many")
    results: list[bytes] = []

    def pack() -> None:
        results.extend(dumps(local.helper) for _ in range(5))

    threads = [threading.Thread(target=pack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all(b"TABLE" in data for data in results)


def found(graph_of: Any) -> list[str]:
    return [str(problem) for problem in problems(graph_of.graph)]


lock = threading.Lock()


@step
def locked(x: int) -> int:
    with lock:
        return x


def test_a_step_that_cannot_be_pickled_is_named_with_the_way_out() -> None:
    @pipeline
    def tag(x: int) -> int:
        return locked(x)

    (problem,) = problems(tag.graph)
    assert problem.where == "step 'locked'"
    assert problem.node == "locked"
    assert "lock" in problem.what
    assert "resource(load)" in str(problem.fix)


UNPICKLABLE = {
    "threading.Lock()": r"lock=resource\(load\)",
    "socket.socket()": r"resource\(load\)",
    "sqlite3.connect(':memory:')": r"resource\(load\)",
    "ThreadPoolExecutor()": r"resource\(load\)",
    "{'inner': threading.Lock()}": r"resource\(load\)",
    "open('/dev/null', 'w')": r"resource\(load\)",
    "torch.compile(lambda x: x)": r"resource\(load\)",
    "(n for n in [1])": r"lock = list\(lock\)",
    "ContextVar('lock')": r"module beside the notebook.*def \w+\(...\): from context import lock",
}


@pytest.mark.parametrize("value", UNPICKLABLE)
@pytest.mark.parametrize(
    ("user", "code"),
    [
        ("it", "@step\ndef f(x: int) -> int:\n    return lock and x\n"),
        (
            "helper",
            "def helper():\n    return lock\n@step\ndef f(x: int) -> int:\n    return helper()\n",
        ),
        (
            "read",
            "class Box:\n    def read(self):\n        return lock\n"
            "@step\ndef f(x: int) -> int:\n    return Box().read()\n",
        ),
        (
            "held",
            "import functools\n"
            "def held(fn):\n    held = lock\n    @functools.wraps(fn)\n"
            "    def held(*args):\n        return lock and fn(*args)\n"
            "    held.__name__ = 'held'\n    return held\n"
            "@held\ndef helper():\n    return 1\n"
            "@step\ndef f(x: int) -> int:\n    return helper()\n",
        ),
    ],
    ids=["step", "helper", "method", "decorator"],
)
def test_a_variable_that_cannot_be_pickled_is_named_with_who_uses_it(
    cell: Cell, value: str, user: str, code: str
) -> None:
    names = cell(
        "import socket, sqlite3, threading, torch\n"
        "from concurrent.futures import ThreadPoolExecutor\nfrom contextvars import ContextVar\n"
        "from mlkit import pipeline, step\n"
        f"lock = {value}\n{code}"
        "@pipeline\ndef tag(x: int) -> int:\n    return f(x)\n"
    )
    with closing(names["lock"]) if hasattr(names["lock"], "close") else nullcontext():
        (problem,) = problems(names["tag"].graph)
    assert f": {user} uses 'lock': " in problem.what
    assert re.search(UNPICKLABLE[value], str(problem.fix))


def test_a_value_that_cannot_be_pickled_is_named_too() -> None:
    guarded: Any = resource(value=threading.Lock())

    @step
    def f(x: int, *, guard: Any = guarded) -> int:
        return x

    @pipeline
    def tag(x: int) -> int:
        return f(x)

    assert any("resource 'lock'" in text for text in found(tag))


def test_a_large_capture_is_named_with_the_way_out() -> None:
    weights, small = np.zeros(LARGE_BYTES, np.uint8), np.zeros(10)

    @step
    def heavy(x: int) -> int:
        return x + int(weights[0] + small[0])

    @pipeline
    def tag(x: int) -> int:
        return heavy(x)

    (problem,) = problems(tag.graph)
    assert problem.where == "step 'heavy'"
    assert "pickles to 16 MiB, most of it 'weights'" in problem.what
    assert "resource(value=model)" in str(problem.fix)


def test_a_large_value_in_a_resource_is_what_resources_are_for() -> None:
    weights: Any = resource(value=np.zeros(LARGE_BYTES + 1, np.uint8))

    @step
    def heavy(x: int, *, w: Any = weights) -> int:
        return x

    @pipeline
    def tag(x: int) -> int:
        return heavy(x)

    assert found(tag) == []


def test_a_loader_that_captures_the_model_is_told_apart() -> None:
    weights = np.zeros(LARGE_BYTES + 1, np.uint8)
    loaded: Any = resource(lambda: weights)

    @step
    def heavy(x: int, *, w: Any = loaded) -> int:
        return x

    @pipeline
    def tag(x: int) -> int:
        return heavy(x)

    assert any("resource '<lambda>'" in text for text in found(tag))


def test_a_small_model_and_a_logger_travel_with_the_function(cell: Cell) -> None:
    names = cell("""
        import logging
        import numpy as np
        from mlkit import pipeline, step

        class Linear:
            def fit(self, xs, ys):
                self.k = float(np.dot(xs, ys) / np.dot(xs, xs))
                return self

            def predict(self, x):
                return self.k * x

        model = Linear().fit([1, 2], [2, 4])
        logger = logging.getLogger("shop")

        @step
        def predict(x: float) -> float:
            logger.info("predicting")
            return model.predict(x)

        @pipeline
        def tag(x: float) -> float:
            return predict(x)
    """)
    assert found(names["tag"]) == []
    assert elsewhere(dumps(names["predict"].fn), 3) == 6


def test_a_member_that_a_module_computes_is_computed_in_the_other_process(
    cell: Cell, module: Callable[..., ModuleType]
) -> None:
    module(
        "computing",
        """
        BASE = 4

        def __getattr__(name):
            if name == "lazy":
                return BASE
            raise AttributeError(name)
        """,
    )
    names = cell("""
        import computing as c

        def f(x):
            return c.lazy + x
    """)
    assert loads(dumps(names["f"]))(1) == 5


@pytest.mark.parametrize("call", ["importlib.import_module('spelled')", "__import__('spelled')"])
def test_a_module_that_is_imported_by_its_name_as_text_is_sent(
    cell: Cell, module: Callable[..., ModuleType], call: str
) -> None:
    module("spelled", "K = 3")
    names = cell(f"""
        import importlib

        def f(x):
            return {call}.K + x
    """)
    assert list(late_modules(names["f"])) == ["spelled"]


def test_the_shell_of_a_notebook_is_not_sent() -> None:
    shell = InteractiveShell.__new__(InteractiveShell)
    assert loads(dumps(shell.get_ipython))() is None
