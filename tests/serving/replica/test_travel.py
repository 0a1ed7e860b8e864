"""Code of a notebook in another process: modules beside it, and what Python functions are made of.

All pipelines are packed here, and run in one fresh process that can import nothing of this folder.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mlkit
from mlkit.define.modules import modules_of
from mlkit.plan import plan
from mlkit.serving.bundle import Origin, digest_of, pack

MODULES = {
    "prices.py": """
import logging, sqlite3, threading
from functools import lru_cache
logger = logging.getLogger(__name__)
TABLE = {"shoe": 3}
FACTOR = 2
_lock = threading.Lock()
_db = sqlite3.connect(":memory:")
_numbers = (n for n in range(3))
_weights = bytes(20 * 2**20)

class Base:
    factor = FACTOR
    def price(self, name):
        logger.info("priced")
        return TABLE.get(name, 0) * self.factor

class Shop(Base):
    pass

def price(name):
    return Shop().price(name)

@lru_cache
def cached(name):
    return price(name) + 1
""",
    "pkg/__init__.py": "from .numbers import ONE\n",
    "pkg/numbers.py": "ONE = 1\ndef one():\n    return ONE\n",
    "pkg/sub.py": """
from . import numbers
from .numbers import one

def two():
    return one() + numbers.ONE

def late_two():
    from .numbers import one as uno
    return uno() + uno()
""",
    "lazy.py": "import lazier\ndef loud(text):\n    return lazier.up(text)\n",
    "shapes.py": """
import threading
from dataclasses import dataclass
from functools import lru_cache
_lock = threading.Lock()
MADE = []

class NotThereError(Exception):
    pass

@dataclass
class Box:
    n: int

@lru_cache
def make(n):
    if n < 0:
        raise NotThereError(n)
    MADE.append(n)
    return Box(n)
""",
    "rates.py": "RATE = 2\nNAME: str = 'a'\nOTHER = RATE + 1\ndef rate():\n    return RATE\n",
    "lazier.py": "def up(text):\n    return text.upper()\n",
    "config.py": """
OPTIONS = {"retries": [1, 2]}
CURRENT = None
def load(name):
    global CURRENT, ADDED
    CURRENT, ADDED = (name, -1.5), [name]
    OPTIONS["retries"] = [1, {"n": 3}]
""",
    "pkg/words.txt": "red blue",
    "pkg/data.py": """
import pkgutil
from importlib import resources
from pathlib import Path

def words():
    return [
        (Path(__file__).parent / "words.txt").read_text(),
        resources.files(__package__).joinpath("words.txt").read_text(),
        pkgutil.get_data("pkg", "words.txt").decode(),
    ]
""",
    "../elsewhere/plug.py": "N = 3\nclass Thing:\n    n = N\ndef times(x):\n    return x * N\n",
}
MADE = (
    "import sys, types\n"
    "made = types.ModuleType('{name}')\n"
    "exec('RATE = 3\\nclass Thing: n = 2\\ndef times(x): return x * RATE', vars(made))\n"
)
REGISTERED = MADE + "sys.modules['{name}'] = made\n"
PLUGGED = (
    "import importlib.util, sys\n"
    "spec = importlib.util.spec_from_file_location('{name}', '../elsewhere/plug.py')\n"
    "plug = importlib.util.module_from_spec(spec)\n"
)
RUN_PLUG = "spec.loader.exec_module(plug)\n"

# Cells: each defines a step `look`; the result for "shoe" has to be the same everywhere.
CELLS = {
    "a module": "import prices\n{step}    return prices.price(x)\n",
    "a module by another name": "import prices as p\n{step}    return p.Shop().price(x)\n",
    "a member": "from prices import price\n{step}    return price(x)\n",
    "a class": "from prices import Shop\n{step}    return Shop().price(x)\n",
    "a constant": "import prices\n{step}    return prices.TABLE[x]\n",
    "a cached function": "import prices\n{step}    return prices.cached(x)\n",
    "getattr": "import prices\n{step}    return getattr(prices, 'pri' + 'ce')(x)\n",
    "a package": "import pkg\n{step}    return pkg.ONE\n",
    "a submodule": "import pkg.sub\n{step}    return pkg.sub.two()\n",
    "a submodule by name": "from pkg import sub\n{step}    return sub.two()\n",
    "a late relative import": "from pkg.sub import late_two\n{step}    return late_two()\n",
    "a late import": "{step}    import lazy\n    return lazy.loud(x)\n",
    "a late member": "{step}    from lazy import loud\n    return loud(x)\n",
    "a late submodule": "{step}    import pkg.sub\n    return pkg.sub.two()\n",
    "a late member of a package": "{step}    from pkg import sub\n    return sub.two()\n",
    "a late import of a helper": (
        "def helper(x):\n    from lazy import loud\n    return loud(x)\n"
        "{step}    return helper(x)\n"
    ),
    "a class, early and late": (
        "from shapes import Box, make as early\n"
        "{step}    from shapes import make\n"
        "    return [isinstance(make(1), Box), make(1) == Box(1), early is make]\n"
    ),
    "a class, early and in a late helper": (
        "import shapes\ndef helper():\n    from shapes import make\n    return make(1)\n"
        "{step}    return isinstance(helper(), shapes.Box)\n"
    ),
    "an exception, early and late": (
        "from shapes import NotThereError\n"
        "{step}    from shapes import make\n"
        "    try:\n        make(-1)\n    except NotThereError:\n        return 'caught'\n"
    ),
    "state, early and late": (
        "import shapes\n"
        "{step}    from shapes import MADE, make\n    make(len(x) + 9)\n"
        "    return shapes.MADE is MADE\n"
    ),
    "data beside a late module": "{step}    from pkg.data import words\n    return words()\n",
    "functions that are pickled by name": (
        "import pickle\nfrom functools import partial\nfrom prices import price\n"
        "def joined(a, b):\n    return a + b\n"
        "{step}    functions = pickle.loads(pickle.dumps([partial(joined, 'a'), price]))\n"
        "    return [function(x) for function in functions]\n"
    ),
    "a constant that a cell has set": (
        "import rates\nrates.RATE, rates.NAME = 50, 'b'\n"
        "{step}    from rates import NAME, RATE, rate\n"
        "    return [NAME, RATE, rate(), rates.RATE, rates.OTHER]\n"
    ),
    "state that a cell has set by a call": (
        "import config\nconfig.load('prod')\n"
        "{step}    from config import ADDED, CURRENT, OPTIONS\n"
        "    return [ADDED, list(CURRENT), OPTIONS]\n"
    ),
    "a made module": MADE.replace("{name}", "made_1")
    + "{step}    return [made.times(x), made.Thing.n, made.RATE]\n",
    "a made module, registered": REGISTERED.replace("{name}", "made_2")
    + "import made_2\n{step}    return [made_2.times(x), made_2.Thing().n]\n",
    "members of a made module": REGISTERED.replace("{name}", "made_3")
    + "from made_3 import RATE, Thing, times\n{step}    return [times(x), Thing().n, RATE]\n",
    "a module from elsewhere": PLUGGED.replace("{name}", "plug_1")
    + RUN_PLUG
    + "{step}    return [plug.times(x), plug.Thing().n]\n",
    "a module from elsewhere, registered": PLUGGED.replace("{name}", "plug_2")
    + "sys.modules['plug_2'] = plug\n"
    + RUN_PLUG
    + "{step}    return [plug.times(x), plug.Thing().n]\n",
    "a module from elsewhere, imported late": PLUGGED.replace("{name}", "plug_3")
    + "sys.modules['plug_3'] = plug\n"
    + RUN_PLUG
    + "{step}    from plug_3 import Thing, times\n    return [times(x), Thing().n]\n",
    "cached_property": (
        "from functools import cached_property\n"
        "class Box:\n    @cached_property\n    def n(self):\n        return 7\n"
        "{step}    return Box().n\n"
    ),
    "singledispatch": (
        "from functools import singledispatch\n"
        "@singledispatch\ndef show(x):\n    return 'any'\n"
        "@show.register\ndef _(x: str):\n    return 'text'\n"
        "{step}    return show(x)\n"
    ),
    "partial": (
        "from functools import partial\nadd = partial(lambda a, b: a + b, 'x')\n"
        "{step}    return add(x)\n"
    ),
    "a closure": (
        "def adder(n):\n    def add(x):\n        return x * n\n    return add\n"
        "twice = adder(2)\n{step}    return twice(x)\n"
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    n: int = 3\n"
        "{step}    return P().n\n"
    ),
    "an enum": "import enum\nclass K(enum.Enum):\n    a = 1\n{step}    return K.a.value\n",
    "a decorated function": (
        "from functools import wraps\n"
        "def twice(fn):\n    @wraps(fn)\n    def inner(*a):\n        return fn(*a) * 2\n"
        "    return inner\n"
        "@twice\ndef helper(x):\n    return x\n{step}    return helper(x)\n"
    ),
    "validated calls": (
        "from functools import partial\nfrom pydantic import BaseModel, validate_call\n"
        "class Line(BaseModel):\n    sku: str\n"
        "@validate_call\ndef times(line: 'Line', n: int = 2) -> str:\n    return line.sku * n\n"
        "@validate_call(validate_return=True)\ndef text(n: int) -> str:\n    return n\n"
        "@validate_call(config=dict(str_to_upper=True))\ndef up(x: str) -> str:\n    return x\n"
        "@validate_call\ndef down(n: int) -> int:\n    return n and down(str(n - 1))\n"
        "def add(a: int, b: int) -> int:\n    return a + b\n"
        "more = validate_call(partial(add, 2))\n"
        "class Shop:\n    @validate_call\n    def add(self, n: int) -> int:\n        return n + 1\n"
        "def failed():\n    try:\n        text('5')\n    except ValueError as error:\n"
        "        return error.error_count()\n"
        "{step}    line = dict(sku=x)\n"
        "    return [times(line, '3'), failed(), up(x), down('4'), more('3'), Shop().add('1')]\n"
    ),
    "a validated step": (
        "from pydantic import validate_call\n"
        "@step\n@validate_call\ndef look(x: str) -> object:\n    return x + '!'\n"
    ),
    "decorators of torch": (
        "import torch\n"
        "@torch.no_grad()\ndef graded():\n    return torch.is_grad_enabled()\n"
        "@torch.inference_mode()\ndef inferred():\n    return torch.is_inference_mode_enabled()\n"
        "{step}    return [graded(), inferred()]\n"
    ),
    "a context manager": (
        "from contextlib import contextmanager\n"
        "@contextmanager\ndef opened(x):\n    yield x + x\n"
        "{step}    with opened(x) as y:\n        return y\n"
    ),
    "methods of all kinds": (
        "import functools\n"
        "class Shop:\n    def add(self, a, b):\n        return a + b\n"
        "    plus = functools.partialmethod(add, 'p')\n"
        "    @staticmethod\n    @functools.lru_cache\n    def one(x):\n        return x + '1'\n"
        "    @classmethod\n    @functools.cache\n    def two(cls, x):\n        return x + '2'\n"
        "    @functools.singledispatchmethod\n    def kind(self, x):\n        return 'any'\n"
        "    @kind.register\n    def _(self, x: str):\n        return 'text'\n"
        "{step}    return [Shop().plus(x), Shop.one(x), Shop.two(x), Shop().kind(x)]\n"
    ),
    "a thread-local variable": (
        "import threading\nlocal = threading.local()\n{step}    local.x = x\n    return local.x\n"
    ),
    "a model that a later cell completes": (
        "from pydantic import BaseModel\n"
        "class Cart(BaseModel):\n    items: 'list[LaterItem]' = []\n"
        "class LaterItem(BaseModel):\n    name: str\n"
        "{step}    return Cart(items=[dict(name=x)]).items[0].name\n"
    ),
    "a property that imports": (
        "class Shop:\n    @property\n    def loud(self):\n        import lazy\n"
        "        return lazy.loud('a')\n{step}    return Shop().loud\n"
    ),
    "a regular expression": "import re\nW = re.compile('s.')\n{step}    return W.sub('', x)\n",
    "an exception of a cell": (
        "class Bad(Exception):\n    pass\n"
        "{step}    try:\n        raise Bad('b')\n    except Bad as e:\n        return str(e)\n"
    ),
    "a recursive function": (
        "def down(n):\n    return n and down(n - 1)\n{step}    return down(len(x))\n"
    ),
}
STEP = "@step\ndef look(x: str) -> object:\n"
PIPELINE = "\n@pipeline\ndef looked(x: str) -> object:\n    return look(x)\n"

RUN = """
import json, pathlib, sys
from mlkit.define.classes import enter_modules
from mlkit.execute import Executor, compile_graph
from mlkit.serving.bundle import unpack
enter_modules()
results = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        graph = unpack(path.read_bytes()).graphs["looked"]
        (node,) = graph
        results[path.name] = node.step.fn("shoe")
    except Exception as error:
        results[path.name] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""


@pytest.fixture(scope="module", autouse=True)
def beside(tmp_path_factory):
    """A folder with modules in it, as that of a notebook: it is the working directory."""
    folder = tmp_path_factory.mktemp("notebook")
    for name, source in MODULES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", ["", *sys.path])
        patch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # pipeline_of replaces it
        loaded = set(sys.modules)
        names = ["prices", "pkg", "lazy", "lazier", "shapes", "rates", "config", "made", "plug"]
        yield folder
        for name in set(sys.modules) - loaded:
            if name.partition(".")[0].partition("_")[0] in names:
                del sys.modules[name]


def pipeline_of(cell: str):
    sys.modules["__main__"] = notebook = ModuleType("__main__")
    names = vars(notebook)
    exec("from mlkit import *\n", names)
    exec(compile(cell.format(step=STEP) + PIPELINE, f"<cell {hash(cell)}>", "exec"), names)
    return names["looked"]


@pytest.fixture(scope="module")
def elsewhere(beside, tmp_path_factory):
    """What each pipeline's step returns in a fresh process."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, cell in CELLS.items():
        pipe = pipeline_of(cell)
        assert [str(problem) for problem in pipe.problems] == [], name
        packed, *_ = pack(plan(pipe))
        (folder / name).write_bytes(packed.data)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(mlkit.__file__).parents[1])},
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_returns_elsewhere_what_it_returns_here(beside, elsewhere, name) -> None:
    assert elsewhere[name] == pipeline_of(CELLS[name])("shoe")


def test_a_proxy_that_passes_for_its_function_is_a_problem() -> None:
    pipe = pipeline_of(
        "import wrapt\n"
        "@wrapt.decorator\ndef twice(fn, instance, args, kwargs):\n"
        "    return fn(*args, **kwargs) * 2\n"
        "@twice\ndef helper(x):\n    return x\n{step}    return helper(x)\n"
    )
    (problem,) = pipe.problems
    assert re.search(r"it uses 'helper': helper is wrapped in a .*FunctionWrapper", problem.what)
    assert "functools.wraps" in str(problem.fix)


def test_a_late_import_of_a_module_without_a_file_is_a_problem() -> None:
    cell = (
        REGISTERED.replace("{name}", "made_4") + "{step}    import made_4\n    return made_4.RATE\n"
    )
    (problem,) = pipeline_of(cell).problems
    assert "imports 'made_4' when it runs, a module that has no file" in problem.what
    assert "outside of the function" in str(problem.fix)


def test_a_member_that_no_step_names_says_so(beside) -> None:
    pipe = pipeline_of("import prices\n{step}    return prices.FACTOR\n")
    (node,) = pipe.graph
    from mlkit.define.shipping import dumps, loads

    module = loads(dumps(node.step.fn)).__globals__["prices"]
    assert module.FACTOR == 2
    with pytest.raises(AttributeError, match="'TABLE' of module 'prices' was not sent"):
        module.TABLE  # noqa: B018


def test_what_a_step_does_name_has_to_be_picklable(beside) -> None:
    pipe = pipeline_of("import prices\n{step}    return bool(prices._lock)\n")
    assert any("cannot be pickled" in str(problem) for problem in pipe.problems)


def test_an_edit_of_a_late_module_is_a_change_that_needs_a_new_process(beside, monkeypatch) -> None:
    for name in ("lazy", "lazier"):  # not imported since the edit
        monkeypatch.delitem(sys.modules, name, raising=False)
    pipe = pipeline_of(CELLS["a late import"])
    before, origin = digest_of(pipe.graph), Origin.here(pack(plan(pipe)))
    assert Origin.here(pack(plan(pipe))) == origin
    path = Path("lazier.py")
    source = path.read_text()
    path.write_text(source.replace("upper()", "upper() + '!'"))
    try:
        assert digest_of(pipe.graph) != before
        assert Origin.here(pack(plan(pipe))) != origin
    finally:
        path.write_text(source)
    assert str(beside) in origin.search_path


def test_late_modules_are_local_ones_and_what_they_import(beside) -> None:
    (node,) = pipeline_of(CELLS["a late import"]).graph
    assert set(modules_of([node.step.fn])) == {"lazier", "lazy"}
    (node,) = pipeline_of("{step}    import json, numpy.linalg, nowhere\n    return 1\n").graph
    assert modules_of([node.step.fn]) == {}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("    return misspelt(x)\n", ["misspelt"]),
        ("    return [misspelt for _ in x]\n", ["misspelt"]),
        ("    return (lambda: misspelt)()\n", ["misspelt"]),
        ("    global counter\n    counter = 1\n    return counter\n", []),
        ("    import json\n    return json.dumps(x)\n", []),
        ("    return len(x) + __name__.count('a')\n", []),
    ],
)
def test_a_name_that_nothing_defines_is_a_problem(body, names) -> None:
    problems = [p for p in pipeline_of("{step}" + body).problems if "not defined" in p.what]
    assert [p.what.split("'")[1] for p in problems] == names
