"""Names of classes in the exact form, in each direction."""

from __future__ import annotations

import collections
import enum
import sys
import typing
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from mlkit.define.graph import Graph
from mlkit.define.shipping import content_id
from mlkit.define.typing import UNIONS, field_types, strip
from mlkit.errors import InputError

__all__ = ["ClassNames", "classes_of"]


class ClassNames:
    """Names of the types of a pipeline, and of other classes that are loaded.

    Args:
        graph: the pipeline; classes that its types name are found even if they belong to a cell.
        modules: names of modules in the exact form, by their names in this process.
    """

    def __init__(self, graph: Graph | None, modules: Mapping[str, str]) -> None:
        self._modules = modules
        types = [] if graph is None else [*(p.type for p in graph.parameters), graph.returns]
        types += [] if graph is None else [node.type for node in graph]
        self._roots: dict[str, type] = {}
        self._names: dict[type, str] = {}
        for cls in dict.fromkeys(classes_of(types)):
            name = self._path(cls)
            if name in self._roots and content_id(cls) != content_id(self._roots[name]):
                name = f"{name}#{content_id(cls)}"  # two classes of one name
            while name in self._roots:  # of equal contents, in the order of the pipeline's types
                name += "+"
            self._names[cls] = name
            self._roots[name] = cls

    def name_of(self, cls: type) -> str:
        """Return the name of a class; of the pipeline's type that it replaces, if it is another.

        Raises:
            InputError: a type of the pipeline has its name and other fields.
        """
        if cls in self._names:
            return self._names[cls]
        name = self._path(cls)
        of_this_name = {key: root for key, root in self._roots.items() if self._path(root) == name}
        for key, root in of_this_name.items():
            if _shape(root) == _shape(cls):  # its cell was run again
                return key
        if of_this_name:
            raise InputError(
                f"two classes are named {cls.__qualname__}, and the pipeline has the other one",
                fix="rename one of them; if its cell was changed and run again, deploy again",
            )
        return name

    def _path(self, cls: type) -> str:
        return f"{self._modules.get(cls.__module__, cls.__module__)}:{cls.__qualname__}"

    def find(self, name: str) -> Any:
        """Return a class by module and qualified name: of the pipeline's types, or loaded."""
        cls = self._roots.get(name)
        if cls is not None:
            return cls
        module, _, path = name.partition(":")
        target: Any = sys.modules.get(module)
        for part in path.split("."):
            target = getattr(target, part, None)
        if isinstance(target, type) and self._path(target) == name:
            return target
        for root in self._roots.values():  # subclasses that a cell defines
            for subclass in reversed(_subclasses(root)):
                if self._path(subclass) == name:
                    return subclass
        raise InputError(
            f"the class {path} is not known here",
            fix="name it in an annotation of the pipeline or its steps",
        )


def _shape(cls: type) -> Any:
    """What tells classes of one name apart: their fields, or the members of an enum."""
    if issubclass(cls, enum.Enum):
        return list(cls.__members__)
    return [(name, str(type_)) for name, type_ in (field_types(cls) or {}).items()]


def classes_of(types: Iterable[Any]) -> Iterable[type]:
    """Classes that types name, those of their fields included."""
    seen: set[Any] = set()
    queue = collections.deque(types)
    while queue:
        type_ = strip(queue.popleft())
        try:
            if type_ in seen:
                continue
            seen.add(type_)
        except TypeError:
            continue
        queue.extend(a for a in typing.get_args(type_) if a is not Ellipsis)
        cls = typing.get_origin(type_) or type_
        if isinstance(cls, type) and cls not in UNIONS:
            yield cls
            fields = field_types(cls) or getattr(cls, "__annotations__", {})
            queue.extend(t for t in fields.values() if not isinstance(t, str))
        if isinstance(type_, type) and type_ is not cls:
            yield type_


def _subclasses(cls: type) -> list[type]:
    direct: list[type] = type.__subclasses__(cls) if cls is not object else []
    return list(chain(direct, *(_subclasses(subclass) for subclass in direct)))
