"""Parameters whose values a function changes in place, as its source shows.

The statements are read in order, with what each name then stands for: a parameter, a part of it, or
a container that holds such parts. It is followed into user-defined functions and methods. What
other functions change is known of a few only, such as `random.shuffle` and drawing on a picture.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from mlkit.define.aliases import Aliases, copied, held, merged, parts, sliced, typed
from mlkit.define.code import captured, definition_of, travels
from mlkit.define.effects import (
    CHANGING_FIRST,
    CHANGING_PICTURES,
    COLLECTING,
    COPYING,
    DRAWING,
    GETTING,
    NESTING,
    ONE_OF,
    SAME,
    VIEWS,
)
from mlkit.define.shared import CHANGING
from mlkit.define.typing import field_types, hints_of, strip

__all__ = ["changed_parameters"]

EMPTY = inspect.Parameter.empty

Names: TypeAlias = dict[str, Aliases]
"""What each name stands for."""


@dataclass
class _Summary:
    """What a function changes and returns of its parameters."""

    changed: set[str] = field(default_factory=set)
    returned: Aliases = field(default_factory=dict)


def changed_parameters(fn: Callable[..., Any]) -> frozenset[str]:
    """Return the parameters whose values a function changes; none if its source is not known."""
    if travels(fn):  # what it calls may be defined again
        return frozenset(_summary(fn, {}).changed)
    return _changed_by_installed(fn)


@lru_cache(maxsize=1024)
def _changed_by_installed(fn: Callable[..., Any]) -> frozenset[str]:
    return frozenset(_summary(fn, {}).changed)


def _summary(fn: Callable[..., Any], known: dict[types.CodeType, _Summary]) -> _Summary:
    unwrapped: Any = inspect.unwrap(fn)  # its decorators pass on what they get
    if not isinstance(unwrapped, types.FunctionType):
        return _Summary()
    code = unwrapped.__code__
    if code not in known:
        known[code] = _Summary()  # of a recursive call
        definition = definition_of(unwrapped)
        if definition is not None:
            reader = _Reader(unwrapped, known)
            arguments = definition.args
            parameters = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            names = {a.arg: reader.parameter(a.arg) for a in parameters}
            reader.run(definition.body, names)
            known[code] = _Summary(reader.changed, reader.returned)
    return known[code]


class _Reader:
    """Reads the body of one function."""

    def __init__(self, fn: types.FunctionType, known: dict[types.CodeType, _Summary]) -> None:
        self.changed: set[str] = set()
        self.returned: Aliases = {}
        self._known = known
        self._hints = hints_of(fn)
        self._local = {*fn.__code__.co_varnames, *fn.__code__.co_cellvars}
        self._variables = ChainMap(captured(fn), fn.__globals__, vars(builtins))
        self._package = str(fn.__module__).partition(".")[0]
        self._inner: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self._running: list[ast.AST] = []

    def parameter(self, name: str) -> Aliases:
        """What a parameter stands for at first."""
        return typed((name, 0), self._hints.get(name, EMPTY))

    # ---- statements -------------------------------------------------------------------------

    def run(self, body: Iterable[ast.stmt], names: Names) -> None:
        """Run statements, which change what the names stand for."""
        for statement in body:
            self._run(statement, names)

    def _run(self, statement: ast.stmt, names: Names) -> None:  # noqa: C901 - one for each kind
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self._inner[name] = statement
                names.pop(name, None)
                self._call_inner(statement, [], {}, names)  # it may be passed on, as a callback
            case ast.Return(value=value) if value is not None:
                self.returned = merged(self.returned, self.read(value, names))
            case ast.Assign(targets=targets, value=value):
                self._assign(targets, value, names)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign([target], value, names)
            case ast.AugAssign(target=target, value=value):
                added = held(parts(self.read(value, names)))
                self._bind(target, {}, names, rebinds=False)
                if isinstance(target, ast.Name):
                    changed = names.get(target.id, {})
                    self._change(changed)
                    names[target.id] = merged(changed, added)
            case ast.Delete(targets=targets):
                for deleted in targets:
                    self._bind(deleted, {}, names)
            case ast.For() | ast.AsyncFor():
                items = parts(self.read(statement.iter, names))
                for _ in range(2):  # what the first round assigns, the second one uses
                    round_ = dict(names)
                    self._bind(statement.target, items, round_)
                    self.run(statement.body, round_)
                    _join(names, round_)
                self.run(statement.orelse, names)
            case ast.While(test=test, body=body, orelse=orelse):
                for _ in range(2):
                    round_ = dict(names)
                    self.read(test, round_)
                    self.run(body, round_)
                    _join(names, round_)
                self.run(orelse, names)
            case ast.If(test=test, body=body, orelse=orelse):
                self.read(test, names)
                other = dict(names)
                self.run(body, names)
                self.run(orelse, other)
                _join(names, other)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    entered = self.read(item.context_expr, names)
                    if item.optional_vars is not None:
                        self._bind(item.optional_vars, entered, names)
                self.run(body, names)
            case ast.Try() | ast.TryStar():
                before = dict(names)
                self.run(statement.body, names)
                self.run(statement.orelse, names)
                for handler in statement.handlers:
                    other = dict(before)
                    _join(other, names)
                    self.run(handler.body, other)
                    _join(names, other)
                self.run(statement.finalbody, names)
            case ast.Match(subject=subject, cases=cases):
                matched = self.read(subject, names)
                before = dict(names)
                for case in cases:
                    arm = dict(before)
                    for node in ast.walk(case.pattern):
                        bound = getattr(node, "name", None) or getattr(node, "rest", None)
                        if bound:
                            arm[bound] = merged(matched, parts(matched))
                    self.run(case.body, arm)
                    _join(names, arm)
            case _:
                for node in ast.iter_child_nodes(statement):
                    if isinstance(node, ast.expr):
                        self.read(node, names)

    def _assign(self, targets: Sequence[ast.expr], value: ast.expr, names: Names) -> None:
        for target in targets:
            if (
                isinstance(target, ast.Tuple)
                and isinstance(value, ast.Tuple)
                and len(target.elts) == len(value.elts)
                and not any(isinstance(e, ast.Starred) for e in (*target.elts, *value.elts))
            ):
                values = [self.read(element, names) for element in value.elts]
                for element, aliases in zip(target.elts, values, strict=True):
                    self._bind(element, aliases, names)
            else:
                self._bind(target, self.read(value, names), names)

    def _bind(
        self, target: ast.expr, aliases: Aliases, names: Names, *, rebinds: bool = True
    ) -> None:
        """Assign to a target: a name, or a part of something, which changes it."""
        match target:
            case ast.Name(id=name):
                if rebinds:
                    names[name] = aliases
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                for element in elements:
                    if isinstance(element, ast.Starred):
                        self._bind(element.value, held(parts(aliases)), names)
                    else:
                        self._bind(element, parts(aliases), names)
            case ast.Subscript(value=owner) | ast.Attribute(value=owner):
                if isinstance(target, ast.Subscript):
                    self.read(target.slice, names)
                self._change(self.read(owner, names))
                self._put(owner, aliases, names)

    def _put(self, owner: ast.expr, aliases: Aliases, names: Names) -> None:
        """Have a container hold what is put into it."""
        if aliases and isinstance(owner, ast.Name):
            names[owner.id] = merged(names.get(owner.id, {}), held(aliases))

    def _change(self, aliases: Aliases) -> None:
        self.changed |= {name for name, depth in aliases if not depth}

    # ---- expressions ------------------------------------------------------------------------

    def read(self, node: ast.expr, names: Names) -> Aliases:  # noqa: C901 - one for each kind
        """Return the aliases of an expression; record what it changes."""
        match node:
            case ast.Name(id=name):
                return names.get(name, {})
            case ast.Attribute(value=value, attr=name):
                owner = self.read(value, names)
                if name in CHANGING:  # a method that is passed on: map(rows.append, items)
                    self._change(owner)
                return parts(owner, name)
            case ast.Subscript(value=value, slice=index):
                self.read(index, names)
                owner = self.read(value, names)
                return sliced(owner) if isinstance(index, ast.Slice) else parts(owner)
            case ast.Call():
                return self._call(node, names)
            case ast.NamedExpr(target=target, value=value):
                names[target.id] = self.read(value, names)
                return names[target.id]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.read(test, names)
                return merged(self.read(body, names), self.read(orelse, names))
            case ast.BoolOp(values=values):
                return merged(*(self.read(value, names) for value in values))
            case ast.Await(value=value):
                return self.read(value, names)
            case ast.Starred(value=value):
                return parts(self.read(value, names))
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                return held(merged(*(self.read(item, names) for item in items)))
            case ast.Dict(keys=keys, values=values):
                for key in filter(None, keys):
                    self.read(key, names)
                read = [self.read(value, names) for value in values]
                pairs = zip(keys, read, strict=True)  # without a key, it is **value
                return held(merged(*(parts(v) if key is None else v for key, v in pairs)))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                inner = dict(names)
                for part in node.generators:
                    self._bind(part.target, parts(self.read(part.iter, inner)), inner)
                    for test in part.ifs:
                        self.read(test, inner)
                if isinstance(node, ast.DictComp):
                    self.read(node.key, inner)
                    return held(self.read(node.value, inner))
                return held(self.read(node.elt, inner))
            case ast.Lambda(args=arguments, body=body):
                bound = {a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)}
                self.read(body, {n: a for n, a in names.items() if n not in bound})
                return {}
            case ast.BinOp(left=left, op=operator, right=right):
                both = merged(self.read(left, names), self.read(right, names))
                return held(parts(both)) if isinstance(operator, (ast.Add, ast.BitOr)) else {}
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.read(child, names)
        return {}

    def _call(self, node: ast.Call, names: Names) -> Aliases:
        called = node.func
        by_position = [self.read(argument, names) for argument in node.args]
        by_name = {k.arg: self.read(k.value, names) for k in node.keywords}
        self._change(by_name.get("out", {}))
        if isinstance(called, ast.Name) and called.id in self._inner:
            return self._call_inner(self._inner[called.id], by_position, by_name, names)
        target = self._resolved(called)
        if self._is_own(target):
            return self._call_own(target, by_position, by_name)
        if not isinstance(called, ast.Attribute):
            self.read(called, names)
        elif owner := self.read(called.value, names):
            return self._call_method(called, owner, by_position, by_name, names)
        elif called.attr in CHANGING:
            self._put(called.value, merged(*by_position, *by_name.values()), names)
        result = self._call_other(ast.unparse(called), by_position, by_name)
        every = merged(*by_position, *by_name.values())
        return held(every) if result is None and isinstance(target, type) else result or {}

    def _call_other(
        self, called: str, by_position: list[Aliases], by_name: Mapping[str | None, Aliases]
    ) -> Aliases | None:
        """Call a function that is known by its name only; None if nothing is known of it."""
        name, every = called.rpartition(".")[2], merged(*by_position, *by_name.values())
        first = by_position[0] if by_position else {}
        if name in CHANGING_FIRST or called in DRAWING or "inplace" in by_name:
            self._change(first)
        if name == "cast" or (name in ONE_OF and len(by_position) > 1 and name != "getattr"):
            return every
        if name in SAME:
            return first
        if name in ONE_OF:
            return parts(first)
        if name in COPYING:
            return copied(first)
        if name in COLLECTING:
            return held(parts(every), 2 if name in NESTING else 1)
        return None

    def _call_method(
        self,
        called: ast.Attribute,
        owner: Aliases,
        by_position: list[Aliases],
        by_name: Mapping[str | None, Aliases],
        names: Names,
    ) -> Aliases:
        name = called.attr
        in_place = name.endswith("_") and not name.startswith("_")  # of torch
        if name in CHANGING or name in CHANGING_PICTURES or in_place or "inplace" in by_name:
            self._change(owner)
            self._put(called.value, merged(*by_position, *by_name.values()), names)
        if name in CHANGING_FIRST and by_position:
            self._change(by_position[0])
        if name in COPYING:
            return {} if "deep" in by_name else copied(owner)
        if name in ("items", "values"):
            return held(parts(owner), 2 if name in NESTING else 1)
        if name in GETTING:
            return parts(owner)
        if name in VIEWS or in_place:
            return owner
        returned: Aliases = {}
        for cls in self._classes(owner):
            method = inspect.getattr_static(cls, name, None)
            if self._is_own(method):
                result = self._call_own(method, [owner, *by_position], by_name)
                returned = merged(returned, result)
        return returned

    def _classes(self, aliases: Aliases) -> list[type]:
        """User-defined classes that a value may be of."""
        classes: list[type] = []
        for (name, depth), type_ in aliases.items():
            if not depth:
                known = type_ not in (EMPTY, Any)
                _add_own(type_ if known else self._hints.get(name, EMPTY), classes)
        return classes

    def _call_own(
        self,
        fn: types.FunctionType,
        by_position: list[Aliases],
        by_name: Mapping[str | None, Aliases],
    ) -> Aliases:
        """Call a user-defined function: it may change its arguments, and return them."""
        summary = _summary(fn, self._known)
        code = inspect.unwrap(fn).__code__
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        arguments = {**dict(zip(parameters, by_position, strict=False)), **by_name}
        for name in summary.changed:  # it or its parts
            self.changed |= {parameter for parameter, _ in arguments.get(name, {})}
        return merged(
            *(
                held(parts(arguments.get(name, {})), depth) if depth else arguments.get(name, {})
                for name, depth in summary.returned
            )
        )

    def _call_inner(
        self,
        definition: ast.FunctionDef | ast.AsyncFunctionDef,
        by_position: list[Aliases],
        by_name: Mapping[str | None, Aliases],
        names: Names,
    ) -> Aliases:
        """Call a nested function: it may return its arguments."""
        arguments = definition.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        bound = dict.fromkeys((a.arg for a in every), typing.cast(Aliases, {}))
        bound |= dict(zip(bound, by_position, strict=False))
        bound |= {name: by_name[name] for name in bound if name in by_name}
        if definition in self._running:
            return {}
        returned, self.returned = self.returned, {}
        self._running.append(definition)
        self.run(definition.body, {**names, **bound})
        self._running.pop()
        result, self.returned = self.returned, returned
        return result

    def _is_own(self, value: Any) -> bool:
        """Whether it is a user-defined function, or one of the same package."""
        if not isinstance(value, types.FunctionType):
            return False
        is_function = isinstance(inspect.unwrap(value), types.FunctionType)
        own = travels(value) or str(value.__module__).partition(".")[0] == self._package
        return is_function and own

    def _resolved(self, called: ast.expr) -> Any:
        """What a call calls, if its name is known."""
        match called:
            case ast.Name(id=name) if name not in self._local:
                return self._variables.get(name)
            case ast.Attribute(value=value, attr=name):
                owner = self._resolved(value)
                if isinstance(owner, types.ModuleType):
                    return vars(owner).get(name)
                return getattr(owner, "fn", None) if name == "fn" else None
        return None


def _join(names: Names, others: Names) -> None:
    for name, aliases in others.items():
        names[name] = merged(names.get(name, {}), aliases)


def _add_own(annotation: Any, classes: list[type]) -> None:
    """Add the user-defined classes in an annotation, and in their fields."""
    bare = strip(annotation)
    for argument in typing.get_args(bare):
        _add_own(argument, classes)
    cls = typing.get_origin(bare) or bare
    if isinstance(cls, type) and cls not in classes and travels(cls):
        classes.append(cls)
        for type_ in (field_types(cls) or {}).values():
            _add_own(type_, classes)
