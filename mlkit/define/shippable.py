"""Problems of a graph: what would be missing in another process, and what cannot be pickled."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from mlkit.define.code import (
    captured,
    has_no_file,
    late_imports,
    travels,
    undefined_names,
    unguarded_names,
)
from mlkit.define.decorated import is_proxy
from mlkit.define.graph import Graph, Problem
from mlkit.define.lookups import lookups
from mlkit.define.modules import functions_of, late_modules, outdated
from mlkit.define.nesting import nested_calls
from mlkit.define.resource import Resource
from mlkit.define.shipping import LARGE_BYTES, Pickler, by_value, dumps, pickled
from mlkit.define.step import Step

__all__ = ["Unpicklable", "problems", "unpicklable"]


class _WithoutResources(Pickler):
    """Measures what a function itself carries, without its resources."""

    def persistent_id(self, obj: Any) -> str | None:
        return "resource" if isinstance(obj, Resource) else None


def problems(graph: Graph) -> Iterator[Problem]:
    """Steps and resources that cannot be pickled, or are too large."""
    problems: list[Problem] = []
    with by_value():
        for step in {id(node.step): node.step for node in graph}.values():
            problems += _undefined(step)
            problems += _looked_up(step)
            problems += _nested(step)
            problems += _interactive(step)
            problems += _without_file(step)
            problems += _outdated(step)
            problems += _pickling(f"step {step.name!r}", step.fn, heavy=True, node=step.name)
        for resource in graph.resources.values():
            heavy = resource.load is not None
            problems += _pickling(f"resource {resource.name!r}", resource, heavy=heavy)
    yield from problems


def _undefined(step: Any) -> Iterator[Problem]:
    """Names that a step uses and nothing defines: it would fail with a NameError."""
    if inspect.isfunction(step.fn) and travels(step.fn):
        for name in undefined_names(step.fn):
            yield Problem(
                f"step {step.name!r}",
                f"it uses {name!r}, which is not defined",
                fix=f"define {name} or import it, here or in the step",
                node=step.name,
            )


def _looked_up(step: Any) -> Iterator[Problem]:
    """Global variables that a step, or a function that it uses, looks up as text."""
    for user in functions_of([step.fn]):
        for lookup, fix in dict(lookups(user)).items():
            yield Problem(
                f"step {step.name!r}",
                f"{'it' if user is step.fn else user.__name__} uses {lookup}, which does not exist "
                "in a replica: only what code names is sent",
                fix=fix,
                node=step.name,
            )


def _nested(step: Any) -> Iterator[Problem]:
    """Steps and pipelines that a step, or a function that it uses, calls."""
    for user in functions_of([step.fn]):
        for called in nested_calls(user):
            kind = "step" if isinstance(called, Step) else "pipeline"
            yield Problem(
                f"step {step.name!r}",
                f"{'it' if user is step.fn else user.__name__} calls the {kind} {called.name!r}, "
                "which is possible in a pipeline only",
                fix=f"call {called.name}.fn(...) for the plain function, or make both steps of the "
                "pipeline"
                if kind == "step"
                else "call it in another pipeline instead, which inlines its steps",
                node=step.name,
            )


def _without_file(step: Any) -> Iterator[Problem]:
    """Modules that a step imports when it runs, and that are neither installed nor a file."""
    for user in functions_of([step.fn]):
        for name in sorted(late_imports(user.__code__)):
            module = sys.modules.get(name)
            if isinstance(module, types.ModuleType) and has_no_file(module):
                yield Problem(
                    f"step {step.name!r}",
                    f"{'it' if user is step.fn else user.__name__} imports {name!r} when it runs, "
                    "a module that has no file",
                    fix="import it outside of the function, from where it is sent along, or write "
                    f"it to {name}.py",
                    node=step.name,
                )


_INTERACTIVE = {
    "breakpoint": "breakpoint(), which waits for someone at a console",
    "exit": "exit(), which ends a console",
    "get_ipython": "IPython (a %magic, a !command or get_ipython()), which a replica does not have",
    "input": "input(), which waits for someone at a console",
    "quit": "quit(), which ends a console",
}
_INSTEAD = {
    "breakpoint": "remove it; app.failures[-1].reproduce() and %debug debug a replica's failure",
    "exit": "return, or raise an exception",
    "get_ipython": "use plain Python in it: subprocess.run([...]) for a !command",
    "input": "take it as a parameter",
    "quit": "return, or raise an exception",
}


def _interactive(step: Any) -> Iterator[Problem]:
    """What works in a cell only."""
    for user in functions_of([step.fn]):
        for name in sorted(_INTERACTIVE.keys() & unguarded_names(user)):
            own = user.__globals__.get(name)
            if own is not None and not _is_ipythons(own):
                continue
            yield Problem(
                f"step {step.name!r}",
                f"{'it' if user is step.fn else user.__name__} uses {_INTERACTIVE[name]}",
                fix=_INSTEAD[name],
                node=step.name,
            )


def _is_ipythons(value: Any) -> bool:
    """Whether IPython has added a function to the notebook, rather than a cell."""
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.startswith("IPython.")


def _outdated(step: Any) -> Iterator[Problem]:
    """Modules that a step imports when it runs, and that are not as in their files."""
    for user in functions_of([step.fn]):
        for module, source in late_modules(user).items():
            name = outdated(module, source)
            if name is not None:
                yield Problem(
                    f"step {step.name!r}",
                    f"{'it' if user is step.fn else user.__name__} imports {module!r} when it "
                    f"runs, whose {name!r} in this notebook is not that of {source.file}, which "
                    "replicas run",
                    fix=f"run importlib.reload({module}), or %autoreload 2; or import it outside "
                    "of functions only, which sends it as it is here",
                    node=step.name,
                )


@dataclasses.dataclass(frozen=True)
class Unpicklable:
    """A variable that cannot be pickled.

    Attributes:
        user: name of the function that uses it.
        name: name of the variable.
        value: its value.
        reason: why it cannot be pickled.
    """

    user: str
    name: str
    value: Any
    reason: str

    def fix(self, default: str) -> str:
        """Return what to do about it.

        Args:
            default: for values that a process can create for itself, such as locks.
        """
        if isinstance(self.value, ContextVar):
            return (
                "define it in a module beside the notebook, and import it in the function that "
                f"uses it: def {self.user}(...): from context import {self.name}"
            )
        if is_proxy(self.value):
            return "write its decorator with functools.wraps"
        if isinstance(self.value, types.GeneratorType):
            return f"make a list of it: {self.name} = list({self.name})"
        return default


def unpicklable(fn: Any, pickler: type[Pickler] | None = None) -> Unpicklable | None:
    """Return the variable of a function, or of one that it uses, that cannot be pickled.

    Args:
        fn: the function; anything else has no variables.
        pickler: `Pickler` by default.
    """
    passed_on = None
    for user in functions_of([fn]):
        for name, value in captured(user).items():
            try:
                dumps(value, pickler)
            except Exception as error:
                variable = Unpicklable(user.__name__, name, value, str(error))
                if not isinstance(value, (types.FunctionType, types.ModuleType, type)):
                    return variable
                passed_on = variable  # by a variable of its own, or by its wrapper
    return passed_on


def _pickling(where: str, value: Any, *, heavy: bool, node: str | None = None) -> Iterator[Problem]:
    kind = _WithoutResources if inspect.isfunction(value) else None
    try:
        size = len(pickled(value, kind))
    except Exception as error:
        reason, fix = str(error), "build what cannot be pickled in a loader: resource(load)"
        if (variable := unpicklable(getattr(value, "load", value), kind)) is not None:
            direct = variable.user == getattr(value, "__name__", None)
            reason = (
                f"{'it' if direct else variable.user} uses {variable.name!r}: {variable.reason}"
            )
            keyword = variable.name.rpartition(".")[2]
            fix = variable.fix(f"build it in a loader: (..., *, {keyword}=resource(load))")
        yield Problem(
            where, f"it cannot be pickled for another process: {reason}", fix=fix, node=node
        )
        return
    if heavy and size > LARGE_BYTES:
        yield Problem(
            where,
            f"it pickles to {size / 2**20:.0f} MiB, {_heaviest(value)}",
            expected=f"at most {LARGE_BYTES / 2**20:.0f} MiB with a function",
            fix="pass it as a keyword: (..., *, model=resource(value=model)), which ships it once",
            node=node,
        )


def _heaviest(fn: Any) -> str:
    used = captured(fn) if inspect.isfunction(fn) else {}
    sizes = {name: len(pickled(value)) for name, value in used.items()}
    name = max(sizes, key=sizes.__getitem__, default=None)
    return f"most of it {name!r}" if name else "most of it in its arguments"
