"""Code of notebooks and scripts, as statements in the order in which they are executed."""

from __future__ import annotations

import ast
import json
import linecache
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlkit.define.code import read_names
from mlkit.define.shared import changed_variables
from mlkit.errors import DefinitionError, MlkitError

__all__ = ["Cell", "Statement", "cells_of_main", "execute", "read_notebook", "statements_of"]

_MAGIC = re.compile(r"\s*[%!]")
_TRANSPARENT = ("%%time", "%%timeit", "%%capture")
"""Magics whose cell is Python."""


@dataclass(frozen=True)
class Cell:
    """Code that is executed as a whole.

    Attributes:
        label: what an error calls it: ``cell 3``, or the name of a file.
        code: the code; magics are blank.
        filename: the file name of its code objects.
    """

    label: str
    code: str
    filename: str = "<cell>"

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without line breaks."""
        return self.code.splitlines()


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement at the top of a cell.

    Attributes:
        text: its lines, with decorators and the comment above.
        flags: compiler flags, of ``from __future__`` in its or an earlier cell.
    """

    cell: Cell
    node: ast.stmt
    text: str
    flags: int = 0

    @property
    def where(self) -> str:
        """Its place: ``cell 3, line 5``."""
        return f"{self.cell.label}, line {self.node.lineno}"

    @cached_property
    def code(self) -> types.CodeType:
        """Its compiled code."""
        tree = ast.Module([self.node], [])
        code: types.CodeType = compile(
            tree, self.cell.filename, "exec", flags=self.flags, dont_inherit=True
        )
        return code

    @cached_property
    def binds(self) -> frozenset[str]:
        """Names of the variables that it assigns, defines or imports."""
        return frozenset(_stored(self.node))

    @cached_property
    def reads(self) -> tuple[frozenset[str], frozenset[str]]:
        """Variables that it reads when it is executed, and those that its functions read."""
        now, later = read_names(self.code)
        return frozenset(now), frozenset(later)

    @cached_property
    def changes(self) -> frozenset[str]:
        """Variables whose values it changes in place, as ``@shop.get("/tags")`` does."""
        if isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return frozenset(_registered_with(self.node.decorator_list))
        return frozenset(
            {*changed_variables(self.node), *_declared(self.node), *_extended(self.node)}
        )


def _registered_with(decorators: Sequence[ast.expr]) -> Iterator[str]:
    """Variables by whose methods a definition is decorated."""
    for decorator in decorators:
        match decorator:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
                yield name


def _extended(node: ast.stmt) -> Iterator[str]:
    """Variables to which a statement adds something: ``shop.include_router(items)``."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method))):
            if method.startswith(("add_", "include_", "mount", "register")):
                yield name


def _declared(node: ast.stmt) -> Iterator[str]:
    """Classes for which a statement declares something: a codec, or that a model is complete."""
    match node:
        case ast.Expr(
            value=ast.Call(
                func=ast.Name(id="codec") | ast.Attribute(attr="codec"),
                args=[ast.Name(id=name), *_],
            )
        ):
            yield name
        case ast.Expr(
            value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="model_rebuild"))
        ):
            yield name


def _stored(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return  # their variables are their own
        case ast.ExceptHandler(name=str(name)):
            yield name
            yield from (n for child in node.body for n in _stored(child))
        case _:
            yield from (n for child in ast.iter_child_nodes(node) for n in _stored(child))


def statements_of(cells: Sequence[Cell]) -> list[Statement]:
    """Return the statements of cells in order; a cell that is not Python has none."""
    statements: list[Statement] = []
    flags = 0
    for cell in cells:
        try:
            tree = ast.parse(cell.code)
        except SyntaxError:
            continue
        flags |= _future_flags(tree)
        statements += [Statement(cell, node, _text(cell, node), flags) for node in tree.body]
    return statements


def _future_flags(tree: ast.Module) -> int:
    import __future__

    names = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    ]
    flags = 0
    for name in names:
        flags |= getattr(__future__, name).compiler_flag
    return flags


def _text(cell: Cell, node: ast.stmt) -> str:
    """Source of a statement with its comments; without what else stands on its lines."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    lines = cell.lines[first - 1 : last]
    alone = ast.get_source_segment(cell.code, node) or ""
    before, after = lines[0][: node.col_offset], lines[-1][node.end_col_offset or 0 :]
    if ";" in before or (after.strip() and not after.strip().startswith("#")):
        return alone
    while first > 1 and cell.lines[first - 2].startswith("#"):
        first -= 1
    comments = [line for line in cell.lines[first - 1 : last - len(lines)] if _is_prose(line)]
    return "\n".join(line.rstrip() for line in [*comments, *lines])


def _is_prose(comment: str) -> bool:
    """Whether a comment is for readers, rather than for a tool."""
    return not re.match(r"#\s*(NBVAL|%|!|type:|mypy:|noqa|ruff:)", comment)


def read_notebook(path: Path) -> list[Cell]:
    """Return the code cells of a notebook, numbered as `Cell n` among the code cells.

    Raises:
        MlkitError: there is no such file, or it is no notebook.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        sources = [
            "".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"
        ]
    except FileNotFoundError:
        raise MlkitError("there is no such notebook", where=str(path)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MlkitError(f"not a notebook: {error}", where=str(path)) from None
    return [
        Cell(f"cell {number}", _python(source), f"<{path.name}, cell {number}>")
        for number, source in enumerate(sources, 1)
    ]


def _python(source: str) -> str:
    """Code of a cell with lines for IPython left blank."""
    lines = source.splitlines()
    if lines and lines[0].startswith("%%"):
        if not lines[0].startswith(_TRANSPARENT):
            return ""
        lines[0] = ""
    return "\n".join(
        line if not _MAGIC.match(line) else line[: len(line) - len(line.lstrip())] + "pass"
        for line in lines
    )


def cells_of_main(namespace: Mapping[str, Any]) -> list[Cell]:
    """Return the code that was executed in ``__main__``: cells of a kernel, or a script.

    Raises:
        DefinitionError: it is known neither by IPython's history nor by a file.
    """
    shell: Any = namespace.get("get_ipython")
    if callable(shell):
        history = shell().history_manager.input_hist_parsed
        kept = [Cell(f"cell {n}", code) for n, code in enumerate(history) if code.strip()]
        return kept or _compiled_cells(shell())
    file = namespace.get("__file__")
    if isinstance(file, str) and Path(file).is_file():
        return [Cell(Path(file).name, Path(file).read_text(encoding="utf-8"), file)]
    known: list[Cell] | None = namespace.get(_CELLS)
    if known is not None:
        return list(known)
    raise DefinitionError(
        "the source of this process is not known",
        where="export(...)",
        expected="a notebook, a script or a module",
        fix="write the pipeline to a file, and import it",
    )


def _compiled_cells(shell: Any) -> list[Cell]:
    """Cells that were executed without a history, as by nbval, in the order of their first run.

    Tracebacks need them too, so that IPython keeps them where Python does.
    """
    sources = [
        "".join(entry[2])
        for name, entry in linecache.cache.items()
        if len(entry) == 4 and shell.compile.format_code_name(name)
    ]
    return [Cell(f"cell {n}", code) for n, code in enumerate(sources, 1) if code.strip()]


_CELLS = "__mlkit_cells__"
"""Variable with the cells that `execute` has executed."""


def execute(
    cells: Sequence[Cell], choose: Callable[[list[Statement]], Sequence[Statement]]
) -> dict[str, Any]:
    """Execute some of the statements of cells as ``__main__`` of this process.

    Args:
        cells: the cells of a notebook.
        choose: returns the statements to execute, in order.

    Returns:
        the variables.

    Raises:
        MlkitError: a statement raises.
    """
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    namespace = vars(main)
    namespace[_CELLS] = tuple(cells)
    for cell in cells:  # for tracebacks, and for all that reads the source of functions
        text = cell.code.splitlines(keepends=True)
        linecache.cache[cell.filename] = (len(cell.code), None, text, cell.filename)
    for statement in choose(statements_of(cells)):
        try:
            exec(statement.code, namespace)
        except Exception as error:
            raise MlkitError(
                f"{type(error).__name__}: {error}",
                where=statement.where,
                fix="run the notebook from top to bottom, and repair this cell",
            ) from error
    return namespace
