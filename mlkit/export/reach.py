"""What a pipeline reaches in the cells that it was written in."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit.define.code import identifiers, late_imports
from mlkit.define.graph import Problem
from mlkit.export.cells import Statement
from mlkit.export.values import Home, home_of, literal_of

__all__ = ["Excerpt", "Imported", "Reach", "calls", "constructor", "needed", "reached"]


@dataclass(frozen=True, order=True)
class Imported:
    """A name that a module imports.

    Attributes:
        module: the module; of ``import a.b``, ``a.b``.
        name: the member that is imported, or "".
        alias: the variable, if it is called otherwise.
    """

    module: str
    name: str = ""
    alias: str = ""


@dataclass(frozen=True)
class Excerpt:
    """Code in a module, at the place of the statement that it comes from.

    Attributes:
        at: number of the statement.
        text: the code.
        origin: the statement.
    """

    at: int
    text: str
    origin: Statement


@dataclass
class Reach:
    """What a variable needs to have its value in another process.

    Attributes:
        imports: what is imported.
        parts: code, by number of its statement.
        values: variables whose values go into files, with their statement.
        modules: names that functions import when they run, and those of `imports`.
        imported_at: numbers of the statements that import.
        problems: what cannot be had in another process.
    """

    imports: set[Imported] = field(default_factory=set)
    parts: dict[int, Excerpt] = field(default_factory=dict)
    values: dict[str, tuple[int, Statement]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    imported_at: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def reached(
    names: Iterable[str], statements: Sequence[Statement], namespace: Mapping[str, Any] | None
) -> Reach:
    """Follow variables to all that they need.

    Args:
        names: the variables.
        statements: all statements, in the order in which they are executed.
        namespace: the variables after them; None if nothing has been executed, and every value is
            to be had from its statement.
    """
    walk = _Walk(statements, namespace)
    for name in names:
        walk.need(name, len(statements), None)
    return walk.found


def needed(
    name: str, statements: Sequence[Statement], others: Iterable[str] = ()
) -> list[Statement]:
    """Return the statements to execute for a variable to have its value, in order.

    Those that change the search path or the environment are among them, and what the variable is
    called with.

    Args:
        name: the variable.
        statements: all statements, in order.
        others: further variables that need their value.
    """
    walk = _Walk(statements, None)
    for each in (name, *others):
        walk.need(each, len(statements), None)
    for at, statement in enumerate(statements):
        changes = statement.changes & {"os", "sys"}
        if changes:
            walk.keep(at)
        elif isinstance(statement.node, ast.ImportFrom) and "*" in statement.binds:
            walk.found.imported_at.add(at)
    for at, call in list(calls(name, statements))[:MAX_CALLS]:
        for node in ast.walk(call):
            if isinstance(node, ast.Name) and node.id != name:
                walk.need(node.id, at, None)
    numbers = {*walk.found.parts, *walk.found.imported_at}
    return [statements[at] for at in sorted(numbers)]


MAX_CALLS = 3
"""Calls whose arguments are made for golden requests."""


def calls(name: str, statements: Sequence[Statement]) -> Iterator[tuple[int, ast.Call]]:
    """Calls of a function in cells whose arguments are literals and variables."""
    for at, statement in enumerate(statements):
        if isinstance(statement.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        local = set(_comprehended(statement.node))
        for node in ast.walk(statement.node):
            match node:
                case ast.Call(func=ast.Name(id=function)) if function == name:
                    parts = [*node.args, *(k.value for k in node.keywords)]
                    if all(_is_given(part, local) for part in parts):
                        yield at, node


def _is_given(argument: ast.expr, local: set[str]) -> bool:
    """Whether an argument needs no computation."""
    nodes = list(ast.walk(argument))
    if any(isinstance(n, ast.Name) and n.id in local for n in nodes):
        return False
    kinds = (ast.Constant, ast.Dict, ast.List, ast.Load, ast.Name, ast.Set, ast.Tuple)
    return all(isinstance(n, (*kinds, ast.UnaryOp, ast.unaryop)) for n in nodes)


def _comprehended(node: ast.AST) -> Iterator[str]:
    """Variables of comprehensions and loops."""
    for inner in ast.walk(node):
        if isinstance(inner, (ast.comprehension, ast.For, ast.AsyncFor)):
            yield from (n.id for n in ast.walk(inner.target) if isinstance(n, ast.Name))


class _Walk:
    def __init__(self, statements: Sequence[Statement], namespace: Mapping[str, Any] | None):
        self.found = Reach()
        self._statements = statements
        self._namespace = namespace
        self._seen: set[tuple[str, int | None]] = set()

    def need(self, name: str, before: int, reader: Statement | None) -> None:
        """Take in a variable as it is before a statement."""
        at = self._binding(name, before)
        if (name, at) in self._seen:
            return
        self._seen.add((name, at))
        if at is None:
            self._without_statement(name, before, reader)
            return
        statement = self._statements[at]
        if isinstance(statement.node, (ast.Import, ast.ImportFrom)):
            self._import(name, statement.node)
            self.found.imported_at.add(at)
            return
        self._settle(name, at, before, statement)

    def _binding(self, name: str, before: int) -> int | None:
        numbers = range(before - 1, -1, -1)
        return next((at for at in numbers if name in self._statements[at].binds), None)

    def _settle(self, name: str, at: int, before: int, statement: Statement) -> None:
        home = Home.SOURCE
        if self._namespace is not None:
            home = home_of(name, statement.node, self._namespace)
        if home is Home.SOURCE:
            self.keep(at)
            for later in range(at + 1, before):
                if name in self._statements[later].changes:
                    self.keep(later)
        elif home is Home.LITERAL:
            assert self._namespace is not None
            text = f"{name} = {literal_of(self._namespace[name])}"
            self.found.parts.setdefault(at, Excerpt(at, text, statement))
        elif home is Home.FILE:
            self.found.values.setdefault(name, (at, statement))
            self._build(statement)
        else:
            self._refuse(name, statement)

    def _build(self, statement: Statement) -> None:
        """Take in what a call that builds a module needs; its weights are in the file."""
        call = constructor(statement.node)
        for node in ast.walk(call) if call is not None else ():
            if isinstance(node, ast.Name):
                self.need(node.id, self._statements.index(statement), statement)

    def _refuse(self, name: str, statement: Statement) -> None:
        assert self._namespace is not None
        kind = type(self._namespace[name])
        self.found.problems.append(
            Problem(
                statement.where,
                f"{name!r} is a {kind.__module__}.{kind.__qualname__}, which another process can "
                "neither load nor make",
                fix=f"make it in a loader: (..., *, {name}=resource(load))",
            )
        )

    def keep(self, at: int) -> None:
        """Take in a statement and what it needs."""
        if at in self.found.parts:
            return
        statement = self._statements[at]
        self.found.parts[at] = Excerpt(at, statement.text, statement)
        self.found.problems += _paths_in(statement)
        self.found.problems += _inline_values(statement)
        self.found.modules |= late_imports(statement.code)
        now, later = statement.reads
        for name in sorted(now):
            self.need(name, at, statement)
        for name in sorted({*later, *_annotated(statement.node)}):
            self.need(name, len(self._statements), statement)

    def _import(self, name: str, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            variable = alias.asname or alias.name.partition(".")[0]
            if variable != name:
                continue
            if isinstance(node, ast.Import):
                self._add(Imported(alias.name, "", alias.asname or ""))
            else:
                self._add(Imported(node.module or "", alias.name, alias.asname or ""))

    def _add(self, imported: Imported) -> None:
        if imported.module == "__future__":
            return
        self.found.imports.add(imported)
        self.found.modules |= {imported.module, f"{imported.module}.{imported.name}".rstrip(".")}

    def _without_statement(self, name: str, before: int, reader: Statement | None) -> None:
        for at in range(before - 1, -1, -1):
            node = self._statements[at].node
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                module = sys.modules.get(node.module or "")
                if module is not None and name in vars(module):
                    self._add(Imported(node.module or "", name))
                    return
        if hasattr(builtins, name) or name.startswith("__"):
            return
        if reader is not None and name in reader.binds:  # such as a variable of its own loop
            return
        if self._namespace is not None and name in self._namespace and reader is not None:
            self.found.problems.append(
                Problem(
                    reader.where,
                    f"it uses {name!r}, which no cell assigns",
                    fix=f"assign it at the top of a cell: {name} = ...",
                )
            )


def constructor(node: ast.stmt) -> ast.Call | None:
    """Return the call by which a statement builds an object: ``net = Net(3)``."""
    match node:
        case ast.Assign(targets=[ast.Name()], value=ast.Call(func=ast.Name()) as call):
            return call
        case ast.AnnAssign(target=ast.Name(), value=ast.Call(func=ast.Name()) as call):
            return call
    return None


def _annotated(node: ast.stmt) -> Iterator[str]:
    """Names in annotations, quoted or not."""
    for inner in ast.walk(node):
        annotations = [getattr(inner, "annotation", None), getattr(inner, "returns", None)]
        for annotation in filter(None, annotations):
            for part in ast.walk(annotation):
                if isinstance(part, ast.Name):
                    yield part.id
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from identifiers(part.value)


def _paths_in(statement: Statement) -> Iterator[Problem]:
    """Absolute paths of this machine."""
    for node in ast.walk(statement.node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if text.startswith("/") and len(text) > 1 and "\n" not in text and _exists(text):
                yield Problem(
                    f"{statement.cell.label}, line {node.lineno}",
                    f"{text!r} is a path of this machine",
                    fix="write it relative to the notebook's folder, and name it in "
                    "resource(load, files=[...]), which has it copied",
                )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


def _inline_values(statement: Statement) -> Iterator[Problem]:
    """Values of resources that are computed where a step is defined."""
    for node in ast.walk(statement.node):
        match node:
            case ast.Call(func=ast.Name(id="resource") | ast.Attribute(attr="resource")) if any(
                k.arg == "value" and isinstance(k.value, ast.Call) for k in node.keywords
            ):
                yield Problem(
                    f"{statement.cell.label}, line {node.lineno}",
                    "the value of a resource is computed where the step is defined, and would be "
                    "computed again in each process",
                    fix="assign it in a line of its own: model = ...; then resource(value=model)",
                )
