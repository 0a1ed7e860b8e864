"""Classes of cells, and of modules beside a notebook, are the same in another process.

All cells are packed here, and each `look` runs in one fresh process that can import none of this.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import mlkit
from mlkit.plan import plan
from mlkit.serving.bundle import digest_of, pack

MODULE = """
from __future__ import annotations
import enum
from dataclasses import dataclass
from pydantic import BaseModel

class Base:
    class Inner:
        pass

@dataclass
class Entry:
    sku: str

@dataclass
class Basket:
    entries: list[Entry]

class Unit(enum.Enum):
    KG = 1
    KILO = 1

def rest():
    return "the rest"
"""

# Each defines `look(x)`, which returns JSON: the same in the notebook and in a replica.
GENERIC = """
from typing import Generic, TypeVar
from pydantic import BaseModel
T = TypeVar("T")
class Page(BaseModel, Generic[T]):
    items: list[T] = []
class Item(BaseModel):
    a: int = 1
"""
ENUM = "import enum\nfrom enum import auto\n"
QUOTED = """
from __future__ import annotations
import functools
from dataclasses import dataclass
from typing import get_type_hints
from pydantic import BaseModel, TypeAdapter
@dataclass
class Line:
    sku: str
@dataclass
class Order:
    lines: list[Line]
class Goods(BaseModel):
    sku: str
"""
PLUGINS = """
class Plugin:
    pass
class First(Plugin):
    name = "first"
class Second(Plugin):
    name = "second"
class Deep(Second):
    name = "deep"
"""
CELLS = {
    "the class of a generic model": GENERIC + """
page = Page[Item](items=[Item()])
def look(x):
    return [isinstance(page, Page[Item]), type(page) is Page[Item], page == Page[Item](items=[{}])]
""",
    "a generic model in an annotation": GENERIC + """
class Shop(BaseModel):
    page: Page[Item]
def look(x):
    shop = Shop(page={"items": [{"a": 3}]})
    return [isinstance(shop.page, Page[Item]), shop.model_dump()]
""",
    "a generic model of itself": GENERIC + """
class Folder(BaseModel):
    folders: "Page[Folder] | None" = None
def look(x):
    folder = Folder(folders={"items": [{}]})
    (inner,) = folder.folders.items
    return [isinstance(folder.folders, Page[Folder]), type(inner) is Folder]
""",
    "a recursive generic model": GENERIC + """
class Chain(BaseModel, Generic[T]):
    value: T
    next: "Chain[T] | None" = None
chain = Chain[Item](value=Item(), next=Chain[Item](value=Item(a=2)))
def look(x):
    again = Chain[Item].model_validate(chain.model_dump())
    return [isinstance(chain.next, Chain[Item]), chain == again]
""",
    "a subclass of a generic model": GENERIC + """
class Items(Page[Item]):
    total: int = 3
def look(x):
    items = Items(items=[{}])
    return [isinstance(items, Page[Item]), type(items.items[0]) is Item, items.total]
""",
    "an enum with __init__": ENUM + """
class Planet(enum.Enum):
    EARTH = 1.0, 2.0
    MARS = 3.0, 4.0
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
    @property
    def gravity(self):
        return self.mass / self.radius
def look(x):
    return [Planet.MARS.gravity, Planet((1.0, 2.0)).radius, [p.name for p in Planet]]
""",
    "an enum with __new__": ENUM + """
class Size(enum.Enum):
    def __new__(cls, value, label):
        member = object.__new__(cls)
        member._value_, member.label = value, label
        return member
    S = 1, "small"
    L = 2, "large"
def look(x):
    return [Size(2).label, Size.S.value, repr(Size.L)]
""",
    "an enum whose base has __new__": ENUM + """
class Labelled(str, enum.Enum):
    def __new__(cls, value, label=""):
        member = str.__new__(cls, value)
        member._value_, member.label = value, label
        return member
class Kind(Labelled):
    A = "a", "the first"
    B = "b"
def look(x):
    return [Kind("a").label, Kind.B.label, Kind.B + "!", Kind.A == "a", len(Kind)]
""",
    "aliases": ENUM + """
class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = 2
def look(x):
    return [Colour["CRIMSON"].name, list(Colour.__members__), Colour.CRIMSON is Colour.RED,
            [c.name for c in Colour], Colour(2).name]
""",
    "flags": ENUM + """
class Access(enum.Flag):
    R = auto()
    W = auto()
    RW = R | W
class Strict(enum.IntFlag, boundary=enum.KEEP):
    A = 1
    C = 6
def look(x):
    return [Access.RW.value, (Access.R | Access.W) is Access.RW, [a.name for a in Access.RW],
            repr(~Access.R), repr(Strict(9)), Strict.C + 1]
""",
    "an enum that refers to itself": ENUM + """
class Op(enum.Enum):
    ADD = enum.member(lambda v: [v + 1, Op.ADD.name])
    OTHER = "o"
    def __call__(self, v):
        return self.value(v)
default = Op.OTHER
def look(x):
    return [Op.ADD(1), default is Op.OTHER, Op("o").name, {Op.OTHER: 1}[Op.OTHER]]
""",
    "enums with data": ENUM + """
import datetime
from dataclasses import dataclass
class Number(enum.IntEnum):
    ONE = 1
class Text(enum.StrEnum):
    @staticmethod
    def _generate_next_value_(name, start, count, last):
        return name + "!"
    FOO = auto()
class Pair(tuple, enum.Enum):
    P = 1, 2
class Day(datetime.date, enum.Enum):
    NEW = 2024, 1, 1
@dataclass
class Creature:
    legs: int
class Animal(Creature, enum.Enum):
    DOG = 4
class Odd(enum.Enum):
    NAN = float("nan")
    LIST = [1]
    value_of = enum.nonmember(5)
    @classmethod
    def _missing_(cls, value):
        return cls.NAN
nan = Odd.NAN
def look(x):
    return [Number.ONE + 1, Text.FOO, f"{Text.FOO}", Pair.P[1], Pair((1, 2)).name, Day.NEW.year,
            Animal.DOG.legs, Odd([1]).name, nan is Odd.NAN, Odd(9).name, Odd.value_of]
""",
    "an enum made by a call": ENUM + """
Shade = enum.Enum("Shade", {"A": 1, "B": 1, "C": [2]})
def look(x):
    return [list(Shade.__members__), Shade(1).name, Shade.C.value]
""",
    "get_type_hints": QUOTED + """
def helper(line: Line) -> Order: ...
def look(x):
    hints = [get_type_hints(Order), get_type_hints(helper)]
    return [hints[0] == {"lines": list[Line]}, hints[1] == {"line": Line, "return": Order}]
""",
    "a TypeAdapter": QUOTED + """
def look(x):
    order = TypeAdapter(Order).validate_python({"lines": [{"sku": "a"}]})
    return [type(order) is Order, type(order.lines[0]) is Line]
""",
    "a model in a step": QUOTED + """
def look(x):
    class Local(BaseModel):
        goods: list[Goods]
    return type(Local(goods=[{"sku": "a"}]).goods[0]) is Goods
""",
    "a function in a step": QUOTED + """
def look(x):
    @functools.singledispatch
    def kind(value): return "other"
    @kind.register
    def _(value: Goods): return "goods"
    return kind(Goods(sku="a"))
""",
    "a nested quoted annotation": """
from dataclasses import dataclass
from typing import List, Optional, get_type_hints
@dataclass
class Tree:
    children: Optional[List["Leaf"]]
@dataclass
class Leaf:
    n: int
def look(x):
    return str(get_type_hints(Tree)["children"].__args__[0].__args__[0].__qualname__)
""",
    "an annotation that cannot be pickled": QUOTED + """
import threading
lock = threading.Lock()
class Guarded:
    def guard(self): return lock
def helper(guarded: Guarded) -> str: return "ok"
def look(x):
    return helper(None)
""",
    "pickle": QUOTED + """
import pickle
def helper(): return 3
def look(x):
    return [pickle.loads(pickle.dumps(Order([Line("a")]))) == Order([Line("a")])]
""",
    "a class of a module": """
from typing import get_type_hints
from beside import Basket, Entry, Unit
import pickle, importlib
from pydantic import TypeAdapter
def look(x):
    basket = TypeAdapter(Basket).validate_python({"entries": [{"sku": "a"}]})
    return [get_type_hints(Basket) == {"entries": list[Entry]}, Unit["KILO"].name,
            pickle.loads(pickle.dumps(basket)) == basket]
""",
    "the rest of a module": """
from beside import Basket
import importlib
def look(x):
    module = importlib.import_module("be" + "side")
    return [module.rest(), module.Basket is Basket, module.Basket.__module__]
""",
    "subclasses": PLUGINS + """
def look(x):
    return [c.name for c in Plugin.__subclasses__()]
""",
    "subclasses of subclasses": PLUGINS + """
def every(cls):
    return [n for c in cls.__subclasses__() for n in [c.name, *every(c)]]
def look(x):
    return every(Plugin)
""",
    "subclasses in a method": PLUGINS.replace("pass", """@classmethod
    def names(cls):
        return [c.name for c in cls.__subclasses__()]
""", 1) + """
def look(x):
    return Second().names() + Plugin.names()
""",
    "a registry": """
from pydantic import BaseModel
registry, models, made = [], [], []
class Base:
    def __init_subclass__(cls, tag, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = tag
        registry.append(cls)
class A(Base, tag="a"): pass
class B(Base, tag="b"): pass
class Model(BaseModel):
    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs):
        models.append(cls)
class Child(Model):
    a: int = 1
class Meta(type):
    def __new__(meta, name, bases, namespace, flag):
        cls = super().__new__(meta, name, bases, namespace)
        made.append((name, flag))
        return cls
    def __init__(cls, name, bases, namespace, flag):
        cls.flag = flag
class Made(metaclass=Meta, flag=1): pass
def look(x):
    class C(Base, tag="c"): pass
    del registry[2:]
    return [[c.tag for c in registry], A.tag, C.tag, [m().a for m in models], Child().a, made,
            Made.flag]
""",
    "an enum with a metaclass": ENUM + """
made = []
class Meta(enum.EnumMeta):
    def __new__(meta, name, *args, **kwargs):
        made.append(name)
        return super().__new__(meta, name, *args, **kwargs)
    def __contains__(cls, value):
        return value == 9 or super().__contains__(value)
class Kind(enum.Enum, metaclass=Meta):
    A = 1
def look(x):
    return [9 in Kind, [k.name for k in Kind], made]
""",
    "attrs": """
import attrs
@attrs.define
class Point:
    x: int = attrs.field()
    ys: list = attrs.field(factory=list)
    @x.validator
    def check(self, attribute, value):
        if value < 0: raise ValueError("negative")
def look(x):
    return [repr(Point(1)), attrs.evolve(Point(1), x=2).x, hasattr(Point(1), "__dict__")]
""",
    "nested classes": """
import enum
from dataclasses import dataclass
from typing import NamedTuple
from pydantic import BaseModel
class Shop:
    class Item(BaseModel):
        a: int = 1
    @dataclass
    class Box:
        a: int = 1
    class Kind(enum.Enum):
        x = 1
    class Pair(NamedTuple):
        a: int = 1
    class Bad(Exception):
        pass
def make():
    class Made:
        pass
    return Made
Made = make()
def look(x):
    return [c.__qualname__ for c in (Shop.Item, Shop.Box, Shop.Kind, Shop.Pair, Shop.Bad, Made)]
""",
    "slots": """
import weakref
from dataclasses import dataclass
class Slots:
    __slots__ = ("a", "__hidden", "__weakref__")
    def __init__(self):
        self.a, self.__hidden = 1, 2
    def hidden(self):
        return self.__hidden
class Open(Slots):
    pass
class One:
    __slots__ = "a"
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
slots, open_, one, point = Slots(), Open(), One(), Point(1)
open_.z, one.a = 4, 5
def look(x):
    return [Slots.a.__get__(slots), slots.hidden(), hasattr(slots, "__dict__"), open_.z, one.a,
            weakref.ref(slots)() is slots, point.y, point == Point(1), hasattr(point, "__dict__")]
""",
    "abstract classes": """
import abc
class Shape(abc.ABC):
    __slots__ = ()
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    __slots__ = ("a",)
    def area(self): return 4
@Shape.register
class Other: pass
def look(x):
    return [Square().area(), isinstance(Other(), Shape), isinstance(Square(), Shape)]
""",
}  # fmt: skip

STEP = """
from mlkit import pipeline, step
@step
def looked_at(x: str) -> object:
    return look(x)
@pipeline
def looked(x: str) -> object:
    return looked_at(x)
"""

RUN = """
import json, pathlib, sys, traceback
from mlkit.serving.bundle import Origin, unpack
Origin(folder=".", search_path=sys.argv[2:]).enter()
results = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        (node,) = unpack(path.read_bytes()).graphs["looked"]
        results[path.name] = node.step.fn("shoe")
    except Exception as error:
        results[path.name] = "".join(traceback.format_exception(error))
print(json.dumps(results))
"""


def run(name: str, patch: pytest.MonkeyPatch) -> ModuleType:
    """Run a cell in a ``__main__`` of its own."""
    main = ModuleType("__main__")
    patch.setitem(sys.modules, "__main__", main)
    exec(compile(CELLS[name], f"<cell {name}>", "exec", dont_inherit=True), vars(main))
    exec(compile(STEP, f"<step {name}>", "exec", dont_inherit=True), vars(main))
    return main


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder with a module, as that of a notebook: it is the working directory."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "beside.py").write_text(textwrap.dedent(MODULE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield folder
        sys.modules.pop("beside", None)


@pytest.fixture(scope="module")
def results(beside, tmp_path_factory):
    """What each cell's `look` returns here and in a fresh process, by cell."""
    folder, here = tmp_path_factory.mktemp("bundles"), {}
    for name in CELLS:
        with pytest.MonkeyPatch.context() as patch:
            looked = run(name, patch).looked
            assert [str(problem) for problem in looked.problems] == [], name
            (folder / name).write_bytes(pack(plan(looked))[0].data)
            here[name] = json.loads(json.dumps(looked("shoe")))
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(folder), str(beside)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(mlkit.__file__).parents[1])},
    )
    there = json.loads(done.stdout)
    return {name: (here[name], there[name]) for name in CELLS}


@pytest.mark.parametrize("name", CELLS)
def test_a_class_of_a_cell_is_the_same_elsewhere(results, name) -> None:
    here, there = results[name]
    assert there == here


def test_a_new_subclass_is_a_change(beside) -> None:
    with pytest.MonkeyPatch.context() as patch:
        main = run("subclasses", patch)
        before = digest_of(main.looked.graph)
        exec("class Third(Plugin):\n    name = 'third'\n", vars(main))
        assert digest_of(main.looked.graph) != before
        again = digest_of(main.looked.graph)
        exec("class Third(Plugin):\n    name = 'third'\n", vars(main))
        assert digest_of(main.looked.graph) == again


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_is_run_again_is_no_change(beside, name) -> None:
    digests = set()
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            digests.add(digest_of(run(name, patch).looked.graph))
    assert len(digests) == 1
