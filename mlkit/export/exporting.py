"""`export`: a folder that runs a pipeline without the notebook that it was written in."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mlkit import __version__
from mlkit.define.check import check
from mlkit.define.docstring import words
from mlkit.define.graph import Graph, Problem
from mlkit.define.modules import ModuleSource, local_sources
from mlkit.errors import ExportError, entry_point
from mlkit.export import golden, manifests
from mlkit.export.artefacts import format_of, write_values
from mlkit.export.cells import Statement, cells_of_main, statements_of
from mlkit.export.examples import golden_inputs
from mlkit.export.module import module_text
from mlkit.export.parity import check_parity
from mlkit.export.reach import Imported, Reach, constructor, reached
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.plan import plan
from mlkit.serving.bundle import shared_state
from mlkit.serving.http.appparts import Application
from mlkit.serving.kernel.app import App

__all__ = ["DETAILS", "Exported", "export"]

DETAILS = "export.json"
"""File that says what a folder is: version of mlkit, module and pipeline."""


@dataclass(frozen=True)
class Exported:
    """An exported pipeline.

    Attributes:
        folder: where it is.
        module: name of its module.
        golden: number of golden requests.
        notes: what differs between one process and many.
    """

    folder: Path
    module: str
    golden: int
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Text of the module."""
        return (self.folder / f"{self.module}.py").read_text(encoding="utf-8")

    def __repr__(self) -> str:
        files = sorted(p for p in self.folder.rglob("*") if p.is_file())
        lines = [
            f"{self.folder}: {self.golden} golden request{'s' * (self.golden != 1)} answered "
            f"equally by {self.module}.py in a fresh process"
        ]
        lines += [
            f"  {file.relative_to(self.folder).as_posix():32} {file.stat().st_size:>9,} bytes"
            for file in files
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@entry_point
def export(
    pipeline: Pipeline[..., Any],
    folder: str | PathLike[str],
    *,
    examples: Iterable[Any] | App | None = None,
    fastapi: Application | None = None,
) -> Exported:
    """Write a pipeline to a folder that runs without this notebook.

    ::

        export(species, "build/species", examples=[[5.1, 3.5, 1.4, 0.2]])

    The folder has a module with the code of the cells that the pipeline reaches, values that are
    not code as files, pinned requirements, configurations for Serve, KubeRay and Docker, and golden
    requests with the answers of this process. The module then answers them in a fresh process, and
    nothing is written unless it does so equally.

    Args:
        pipeline: the pipeline, assigned to a variable of a cell, a script or a module.
        folder: where to; a former export there is replaced.
        examples: inputs of golden requests, in the forms of ``pipeline.map``; or an app, whose last
            requests are taken. By default, the calls of the pipeline with literal arguments in
            cells, else an example of its types.
        fastapi: application that embeds it, as in `deploy`; a variable of a cell or a module.

    Raises:
        ExportError: a part of it cannot be exported; all of them are listed, by cell and line.
        DeployError: a part of the application could not be sent to a replica.
    """
    require_pipeline(pipeline, "export(...)")
    target = Path(folder).absolute()
    _check_replaceable(target)
    source = _source_of(pipeline, fastapi)
    with tempfile.TemporaryDirectory(prefix="mlkit-export-") as scratch:
        fresh = Path(scratch) / "export"
        exported = _write(pipeline, fastapi, source, fresh, examples, target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        for wheel in (target / "wheels").glob("*.whl"):
            shutil.copy2(wheel, fresh / "wheels")
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(fresh, target)
    return Exported(target, exported.module, exported.golden, exported.notes)


def _check_replaceable(folder: Path) -> None:
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not _is_export(folder):
        raise ExportError(
            "the folder has other contents, which an export would delete",
            where=str(folder),
            fix="pass a folder that does not exist yet",
        )


def _is_export(folder: Path) -> bool:
    try:
        details = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_one = isinstance(details, dict) and {"mlkit", "target"} <= details.keys()
    return is_one and not (folder / ".git").exists()


@dataclass(frozen=True)
class _Source:
    """Where a pipeline is written.

    Attributes:
        variable: its variable.
        application: variable of the user's application, if there is one.
        statements: of the cells; empty if a module has it.
        reach: what it needs.
    """

    variable: str
    application: str | None
    statements: Sequence[Statement]
    reach: Reach

    @property
    def names(self) -> list[str]:
        """The variables that the module offers."""
        return [self.variable] if self.application is None else [self.variable, self.application]


def _source_of(pipeline: Pipeline[..., Any], fastapi: Application | None) -> _Source:
    main = vars(sys.modules["__main__"])
    variable = _variable_of(pipeline, main)
    application = _application_of(
        fastapi, main if variable else vars(sys.modules[pipeline.fn.__module__])
    )
    if variable is not None:
        statements = statements_of(cells_of_main(main))
        if not any(variable in statement.binds for statement in statements):
            raise ExportError(
                "no known cell assigns it",
                where=f"pipeline {pipeline.name!r}",
                fix="run its cell again",
            )
        names = [variable] if application is None else [variable, application]
        return _Source(variable, application, statements, reached(names, statements, main))
    home = pipeline.fn.__module__
    variable = _variable_of(pipeline, vars(sys.modules[home]))
    if variable is None or home == "__main__":
        raise ExportError(
            "it is no variable of a cell or a module",
            where=f"pipeline {pipeline.name!r}{_place_of(pipeline, main)}",
            fix=f"assign it at the top of a cell: {pipeline.name} = ...",
        )
    reach = Reach(modules={home})
    reach.imports |= {Imported(home, name) for name in (variable, application) if name}
    return _Source(variable, application, (), reach)


def _variable_of(value: object, namespace: Mapping[str, Any]) -> str | None:
    return next((n for n, v in namespace.items() if v is value and not n.startswith("_")), None)


def _application_of(fastapi: Application | None, namespace: Mapping[str, Any]) -> str | None:
    """The variable of a user's application, beside that of the pipeline."""
    if fastapi is None:
        return None
    variable = _variable_of(fastapi, namespace)
    if variable is None:
        raise ExportError(
            "the application is no variable beside the pipeline",
            where="fastapi=",
            expected="a variable of a cell, or of the module that has the pipeline",
            fix="assign it at the top of a cell: shop = FastAPI()",
        )
    return variable


def _place_of(pipeline: Pipeline[..., Any], main: Mapping[str, Any]) -> str:
    """Cell and line of a pipeline's function, if they are known."""
    first = pipeline.fn.__code__.co_firstlineno
    for statement in statements_of(cells_of_main(main)):
        for node in ast.walk(statement.node):
            match node:
                case ast.FunctionDef(name=pipeline.name, lineno=line, decorator_list=decorators):
                    if first in (line, *(d.lineno for d in decorators)):
                        return f", {statement.cell.label}, line {first}"
    return ""


def _write(
    pipeline: Pipeline[..., Any],
    fastapi: Application | None,
    source: _Source,
    folder: Path,
    examples: Iterable[Any] | App | None,
    image_name: str,
) -> Exported:
    """Write everything, and replay the golden requests in a fresh process."""
    graph = pipeline.graph
    local = local_sources(source.reach.modules)
    module = _module_name(graph.name, {name.partition(".")[0] for name in local})
    modules = {"__main__": module}
    files, outside = _files_of(graph)
    namespace = vars(sys.modules["__main__"])
    values = {name: namespace[name] for name in source.reach.values}
    unsaved = write_values(folder / "artefacts", values, modules) if values else {}
    problems = [
        *check(graph),
        *source.reach.problems,
        *_changed_modules(local),
        *outside,
        *_unbuildable(source.reach, namespace),
        *(
            Problem(source.reach.values[name][1].where, f"{name!r}: {error.what}", fix=error.fix)
            for name, error in unsaved.items()
        ),
    ]
    inputs = []
    if not problems:
        inputs = golden_inputs(pipeline, source.variable, source.statements, examples)
        if not inputs:
            problems.append(_without_example(graph))
    if problems:
        listed = sorted(map(str, problems), key=_natural)
        raise ExportError(
            f"{len(listed)} problem{'s' * (len(listed) > 1)} in the way:\n"
            + "\n".join(f"  - {problem}" for problem in listed),
            where=f"pipeline {graph.name!r}",
        )
    _write_code(graph, source, folder, module, local, files)
    recorded = golden.record(pipeline, inputs, modules, fastapi)
    golden.write(folder / "golden", recorded)
    target = f"{module}:{source.variable}"
    details = {"mlkit": __version__, "target": target, "fastapi": source.application}
    (folder / DETAILS).write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
    loaded = check_parity(folder, target, source.application)
    notes = tuple(shared_state(graph))
    pins, wheels = manifests.requirements(loaded | _tops(source.reach))
    planned = plan(pipeline)
    (folder / "wheels").mkdir()
    (folder / "wheels" / ".gitkeep").touch()
    gpu = any(stage.num_gpus for stage in planned.stages)
    in_image = {
        "requirements.txt": pins,
        "serve_app.py": manifests.serve_app(target, source.application),
        "serve.yaml": manifests.serve_config(planned, source.variable),
        "Dockerfile": manifests.dockerfile(gpu=gpu),
    }
    _write_texts(folder, in_image)
    image = manifests.image_of(image_name, folder)
    command = golden.command(recorded[0])
    about_it = {
        "rayservice.yaml": manifests.ray_service(planned, source.variable, image),
        "README.md": manifests.readme(planned, module, command, image, wheels, notes),
    }
    _write_texts(folder, about_it)
    return Exported(folder, module, len(inputs), notes)


def _write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _without_example(graph: Graph) -> Problem:
    return Problem(
        f"pipeline {graph.name!r}",
        "there is no example for a golden request",
        fix="pass some: export(..., examples=[...]), as to pipeline.map",
    )


def _natural(problem: str) -> list[Any]:
    """Sort key: by cell and line."""
    parts = re.split(r"(\d+)", problem.partition(": ")[0])
    return [int(part) if part.isdigit() else part for part in parts]


def _tops(reach: Reach) -> set[str]:
    return {name.partition(".")[0] for name in reach.modules}


def _module_name(name: str, taken: set[str]) -> str:
    """Return a name that no other module has."""
    if name in taken or name in sys.stdlib_module_names or importlib.util.find_spec(name):
        return f"{name}_pipeline"
    return name


def _write_code(
    graph: Graph,
    source: _Source,
    folder: Path,
    module: str,
    local: Mapping[str, ModuleSource],
    files: Mapping[str, Path],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    namespace = vars(sys.modules["__main__"])
    formats = {name: format_of(namespace[name]) or "" for name in source.reach.values}
    future = any(p.origin.flags for p in source.reach.parts.values())
    own = {name.partition(".")[0] for name in local}
    doc = words(graph.doc)
    text = module_text(
        source.names,
        doc.summary or f"The pipeline `{graph.name}`.",
        source.reach,
        formats,
        own,
        future=future,
    )
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    for name, each in local.items():
        path = folder.joinpath(*name.split("."))
        path = path / "__init__.py" if each.package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(each.text, encoding="utf-8")
    for relative, file in files.items():
        copy = folder / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, copy, dirs_exist_ok=True)
        else:
            shutil.copy2(file, copy)


def _files_of(graph: Graph) -> tuple[dict[str, Path], list[Problem]]:
    """Files of resources by their path in the export, and those that are elsewhere."""
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    here = Path.cwd()
    for node in graph:
        for resource in node.step.resources.values():
            for name in resource.files:
                file = Path(name).absolute()
                if file.is_relative_to(here) and ".." not in Path(name).parts and file.exists():
                    files[file.relative_to(here).as_posix()] = file
                    continue
                problems.append(
                    Problem(
                        f"step {node.step.name!r}",
                        f"its resource {resource.name!r} reads {name!r}",
                        expected="a file in the notebook's folder, or below it",
                        fix="move the file there, and write its path relative to the notebook",
                    )
                )
    return files, problems


def _changed_modules(local: Mapping[str, ModuleSource]) -> Iterator[Problem]:
    for name, source in local.items():
        for variable, value in source.changed:
            yield Problem(
                f"module {name!r}",
                f"a cell has changed {name}.{variable}, which its file does not say",
                got=f"{value!r:.40}",
                fix=f"write it to {Path(source.file).name}",
            )


def _unbuildable(reach: Reach, namespace: Mapping[str, Any]) -> Iterator[Problem]:
    for name, (_, statement) in reach.values.items():
        value = namespace[name]
        if format_of(value) != "weights":
            continue
        call = constructor(statement.node)
        kind = type(value).__name__
        if call is None or not isinstance(call.func, ast.Name) or call.func.id != kind:
            yield Problem(
                statement.where,
                f"{name!r} is a module of torch, and this line does not say how to build it",
                expected=f"{name} = {kind}(...)",
                fix=f"assign it by its class, and load its weights in a line of their own; or keep "
                f'it as a model: models.save({name}, "{name}", ...)',
            )
