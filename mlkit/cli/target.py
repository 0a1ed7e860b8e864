"""The pipeline that a command is about, by the name of its module."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.cli.arguments import UsageError
from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from mlkit import Pipeline

__all__ = ["load"]


def load(target: str) -> Pipeline[..., Any]:
    """Import the pipeline ``MODULE:NAME``; the working directory is on the search path.

    Raises:
        UsageError: the module or the name does not exist, or is not a pipeline.
        MlkitError: importing the module raises.
    """
    from mlkit import Pipeline

    module, _, name = target.partition(":")
    if not module or not name:
        raise UsageError(f"{target!r} is not MODULE:PIPELINE, such as mlkit.tagging:tag")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(f"{module!r} is a file; pass the module: {dotted}:{name}")
    value: Any = _module(module)
    for part in name.split("."):
        if not hasattr(value, part):
            raise UsageError(f"module {module!r} has no {name!r}{_pipelines_of(value)}")
        value = getattr(value, part)
    if not isinstance(value, Pipeline):
        kind = type(value).__name__
        raise UsageError(f"{target} is a {kind}, not a pipeline{_pipelines_of(_module(module))}")
    return value


def _module(name: str) -> Any:
    import importlib

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"no module named {error.name!r} (searched {here} as well)") from None
        raise _import_failed(name, error) from error
    except Exception as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> MlkitError:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if "importlib" not in f.filename), None)
    return MlkitError(
        f"importing {name!r} failed: {type(error).__name__}: {error}",
        where=f"{place.filename}, line {place.lineno}" if place else None,
    )


def _pipelines_of(module: Any) -> str:
    from mlkit import Pipeline

    names = [k for k, v in vars(module).items() if isinstance(v, Pipeline)]
    return f"; its pipelines are: {', '.join(names)}" if names else ""
