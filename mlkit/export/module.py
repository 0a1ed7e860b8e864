"""The text of an exported module, laid out as formatters do."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from mlkit.export.reach import Excerpt, Imported, Reach, constructor

__all__ = ["import_block", "module_text"]

WIDTH = 88
"""Columns of a line, from which on an import is wrapped."""


def module_text(
    names: Sequence[str],
    doc: str,
    reach: Reach,
    formats: Mapping[str, str],
    own_modules: Collection[str],
    *,
    future: bool = False,
) -> str:
    """Return the source of a module.

    Args:
        names: variables that the module offers.
        doc: the module's docstring.
        reach: what it consists of.
        formats: format of each value in a file, by name.
        own_modules: top-level names of modules that are exported with it.
        future: whether annotations are text, by ``from __future__ import annotations``.
    """
    imports = set(reach.imports)
    if future:
        imports.add(Imported("__future__", "annotations"))
    parts = dict(reach.parts)
    listed = ", ".join(f'"{name}"' for name in names)
    opening = [f"__all__ = [{listed}]"]
    if reach.values:
        imports |= {Imported("pathlib", "Path"), Imported("mlkit.export", "Artefacts")}
        variable = _free("artefacts", reach)
        opening.append(f'{variable} = Artefacts(Path(__file__).parent / "artefacts")')
        for value, (at, statement) in reach.values.items():
            text = _load(variable, value, formats.get(value), constructor(statement.node))
            before = f"{parts[at].text}\n" if at in parts else ""
            parts[at] = Excerpt(at, before + text, statement)
    blocks = [_docstring(doc)]
    if imports:
        blocks.append(import_block(imports, own_modules))
    ordered = [parts[at] for at in sorted(parts)]
    text = "\n\n".join([*blocks, *opening])
    return text + "".join(_joined(ordered)) + "\n"


def _docstring(doc: str) -> str:
    text = doc.strip().replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'


def _free(name: str, reach: Reach) -> str:
    """A variable that the code does not have."""
    used = {n for part in reach.parts.values() for n in part.origin.binds} | set(reach.values)
    used |= {i.alias or i.name or i.module for i in reach.imports}
    while name in used:
        name += "_"
    return name


def _load(variable: str, name: str, format_: str | None, build: ast.Call | None) -> str:
    if format_ != "weights" or build is None:
        return f'{name} = {variable}["{name}"]'
    built = ast.unparse(build).replace("'", '"')
    bare = not build.args and not build.keywords and isinstance(build.func, ast.Name)
    maker = ast.unparse(build.func) if bare else f"lambda: {built}"
    return f'{name} = {variable}.weights("{name}", {maker})'


def _joined(parts: Sequence[Excerpt]) -> Iterator[str]:
    """Parts with the blank lines between them."""
    before: Excerpt | None = None
    for part in parts:
        yield "\n" * (1 + _blank_lines(before, part)) + part.text
        before = part


def _blank_lines(before: Excerpt | None, part: Excerpt) -> int:
    if _is_block(part) or (before is not None and _is_block(before)):
        return 2
    if before is None or before.origin.cell is not part.origin.cell:
        return 1
    first = part.origin.node.lineno - (part.text.count("\n") if part.text.startswith("#") else 0)
    return int(first - (before.origin.node.end_lineno or 0) > 1)


def _is_block(part: Excerpt) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return isinstance(part.origin.node, kinds)


def import_block(imports: Iterable[Imported], own_modules: Collection[str]) -> str:
    """Return import statements, grouped and sorted as isort and ruff do by default."""

    def section(imported: Imported) -> int:
        top = imported.module.partition(".")[0]
        if top == "__future__":
            return 0
        if top in sys.stdlib_module_names:
            return 1
        return 3 if top in own_modules else 2

    groups = groupby(sorted(imports, key=section), key=section)
    return "\n\n".join("\n".join(_section(list(group))) for _, group in groups)


def _section(imports: list[Imported]) -> Iterator[str]:
    whole = [i for i in imports if not i.name]
    for imported in sorted(whole, key=lambda i: (_natural(i.module), i.alias)):
        alias = f" as {imported.alias}" if imported.alias else ""
        yield f"import {imported.module}{alias}"
    members = sorted((i for i in imports if i.name), key=lambda i: _natural(i.module))
    for module, group in groupby(members, key=lambda i: i.module):
        yield from _members(module, sorted(group, key=lambda i: _order(i.name)))


def _members(module: str, members: list[Imported]) -> Iterator[str]:
    same = [i for i in members if i.alias in ("", i.name)]
    if same:
        names = [i.name for i in same]
        line = f"from {module} import {', '.join(names)}"
        if len(line) > WIDTH:
            line = f"from {module} import (\n" + "".join(f"    {n},\n" for n in names) + ")"
        yield line
    for imported in members:
        if imported.alias not in ("", imported.name):
            yield f"from {module} import {imported.name} as {imported.alias}"


def _natural(text: str) -> tuple[object, ...]:
    parts = re.split(r"(\d+)", text.lower())
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _order(name: str) -> tuple[object, ...]:
    """Constants first, then classes, then everything else."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, *_natural(name)
