"""Settings of this process that replicas do not have, such as ``np.seterr``."""

from __future__ import annotations

import contextvars
import inspect
import logging
import random
import re
import socket
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from mlkit.define.code import captured, is_local, late_imports, travels, used_names
from mlkit.define.modules import functions_of, imported_names, late_modules

__all__ = ["changed_settings"]


def changed_settings(functions: Iterable[Any]) -> dict[str, str]:
    """Return the settings that are not the default, and code that sets each in a step, by name.

    Only of libraries that the functions name, import or are annotated with, and of Python itself.
    """
    users = list(functions_of(functions))
    packages = {"", *_packages(users)} & {"", *sys.modules}
    changed = {
        name: code
        for package, name, code, is_default in _SETTINGS
        if package in packages and not is_default(sys.modules.get(package))
    }
    changed |= dict(_of_random_numbers(users)) | dict(_of_patches(users))
    changed |= dict(_of_late_modules(users))
    if "logging" in packages:
        changed |= dict(_of_logging())
    return changed | (dict(_of_pandas(sys.modules["pandas"])) if "pandas" in packages else {})


def _is_set_here(name: str) -> bool:
    """Whether a cell or a script sets it: libraries do as well, such as jedi and hypothesis."""
    return name in _main_source()


def _main_source() -> str:
    main = sys.modules["__main__"]
    cells = getattr(main, "In", None)
    if isinstance(cells, list):
        return "\n".join(cells)
    try:
        return inspect.getsource(main)
    except (OSError, TypeError):  # it has no file
        return ""


def _is_decimal_default(decimal: Any) -> bool:
    context = decimal.getcontext().copy()
    context.clear_flags()
    return repr(context) == (
        "Context(prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0,"
        " flags=[], traps=[InvalidOperation, DivisionByZero, Overflow])"
    )


_PRINTED = {
    "edgeitems": 3,
    "floatmode": "maxprec",
    "formatter": None,
    "infstr": "inf",
    "legacy": False,
    "linewidth": 75,
    "nanstr": "nan",
    "precision": 8,
    "sign": "-",
    "suppress": False,
    "threshold": 1000,
}
"""How numpy prints arrays by default."""

_Setting: typing.TypeAlias = tuple[str, str, str, Callable[[Any], bool]]
_SETTINGS: tuple[_Setting, ...] = (
    (
        "",
        "sys.setrecursionlimit",
        "sys.setrecursionlimit(...)",
        lambda _: sys.getrecursionlimit() == 1000 or not _is_set_here("setrecursionlimit"),
    ),
    (
        "",
        "sys.set_int_max_str_digits",
        "sys.set_int_max_str_digits(...)",
        lambda _: (
            sys.get_int_max_str_digits() == sys.int_info.default_max_str_digits
            or not _is_set_here("set_int_max_str_digits")
        ),
    ),
    (
        "",
        "socket.setdefaulttimeout",
        "socket.setdefaulttimeout(...)",
        lambda _: socket.getdefaulttimeout() is None or not _is_set_here("setdefaulttimeout"),
    ),
    (
        "",
        "warnings.simplefilter('error')",
        "with warnings.catch_warnings():",
        lambda _: (
            not re.search(r"(simplefilter|filterwarnings)\(\s*['\"]error", _main_source())
            or all(action != "error" for action, *_ in warnings.filters)
        ),
    ),
    (
        "locale",
        "locale.setlocale",
        "locale.setlocale(...)",
        lambda locale: all(
            locale.setlocale(kind) == "C"
            for kind in (locale.LC_TIME, locale.LC_NUMERIC, locale.LC_COLLATE)
        ),
    ),
    (
        "decimal",
        "decimal.getcontext",
        "with decimal.localcontext(...):",
        _is_decimal_default,
    ),
    (
        "csv",
        "csv.register_dialect",
        "csv.register_dialect(...)",
        lambda csv: {"excel", "excel-tab", "unix"}.issuperset(csv.list_dialects()),
    ),
    (
        "numpy",
        "np.seterr",
        "with np.errstate(...):",
        lambda numpy: (
            numpy.geterr()
            == {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
        ),
    ),
    (
        "numpy",
        "np.set_printoptions",
        "with np.printoptions(...):",
        lambda numpy: numpy.get_printoptions().items() >= _PRINTED.items(),
    ),
    (
        "sklearn",
        "sklearn.set_config",
        "with sklearn.config_context(...):",
        lambda sklearn: (
            sklearn.get_config()["transform_output"] == "default"
            and not sklearn.get_config()["enable_metadata_routing"]
        ),
    ),
    (
        "torch",
        "torch.set_default_dtype",
        "torch.set_default_dtype(...)",
        lambda torch: torch.get_default_dtype() == torch.float32,
    ),
    (
        "torch",
        "torch.set_default_device",
        "with torch.device(...):",
        lambda torch: torch.get_default_device().type == "cpu",
    ),
    (
        "torch",
        "torch.set_grad_enabled",
        "with torch.no_grad():",
        lambda torch: torch.is_grad_enabled(),
    ),
    (
        "torch",
        "torch.set_float32_matmul_precision",
        "torch.set_float32_matmul_precision(...)",
        lambda torch: torch.get_float32_matmul_precision() == "highest",
    ),
    (
        "PIL",
        "PIL.Image.MAX_IMAGE_PIXELS",
        "PIL.Image.MAX_IMAGE_PIXELS = ...",
        lambda pil: not hasattr(pil, "Image") or pil.Image.MAX_IMAGE_PIXELS == 2**30 // 4 // 3,
    ),
    (
        "PIL",
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES",
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES = ...",
        lambda pil: not hasattr(pil, "ImageFile") or not pil.ImageFile.LOAD_TRUNCATED_IMAGES,
    ),
)
"""Package, name, code that sets it in a step, and whether it has its default value."""

_OPTION = re.compile(r"^(\S+) [^\[]*.*?\[default: (.*?)\] \[currently: (.*?)\]", re.S | re.M)


def _of_pandas(pandas: Any) -> Iterator[tuple[str, str]]:
    for name, default, current in _OPTION.findall(pandas.describe_option(_print_desc=False)):
        if current != default:
            yield f"the option {name!r} of pandas", f"with pd.option_context({name!r}, ...):"
    for kind in (pandas.DataFrame, pandas.Series, pandas.Index):
        for name in sorted(name for name in vars(kind) if not name.startswith("_")):
            accessor = getattr(kind, name)
            if inspect.isclass(accessor) and travels(accessor):
                yield (
                    f"the accessor {name!r} of {kind.__name__}",
                    f"pd.api.extensions.register_{kind.__name__.lower()}_accessor({name!r})"
                    f"({accessor.__name__})",
                )


def _of_random_numbers(functions: Iterable[types.FunctionType]) -> Iterator[tuple[str, str]]:
    """Seeds of generators that a process has, if the notebook sets them and functions draw."""
    source = _main_source()
    numpy = sys.modules.get("numpy")
    for fn in functions:
        names = used_names(fn.__code__)
        for value in captured(fn).values():
            if value is random and re.search(r"(?<![.\w])random\.seed\(", source):
                yield "random.seed", "rng = random.Random(...)"
            draws = (value is numpy and "random" in names) or value is getattr(numpy, "random", fn)
            if draws and re.search(r"\b(np|numpy)\.random\.seed\(", source):
                yield "np.random.seed", "rng = np.random.default_rng(...)"


def _of_logging() -> Iterator[tuple[str, str]]:
    """Filters of loggers, and handlers other than those for the console: replicas have neither."""
    loggers = {"root": logging.root, **logging.root.manager.loggerDict}
    for name, logger in sorted(loggers.items()):
        of_library = name != "root" and name.partition(".")[0] in sys.modules
        if isinstance(logger, logging.Logger) and not of_library:
            code = "*, logs=resource(set_up_logging), whose loader sets it"
            for handler in filter(_is_kept_elsewhere, logger.handlers):
                yield f"the {type(handler).__name__} of the logger {name!r}", code
            for part in (logger, *logger.handlers):
                if any(map(_is_own, part.filters)):
                    yield f"a filter of the logger {name!r}", code


def _is_own(log_filter: Any) -> bool:
    """Whether a user has added it: libraries add theirs wherever they are imported."""
    function = log_filter.func if isinstance(log_filter, partial) else log_filter
    code = function if hasattr(function, "__name__") else type(function)
    return code.__module__ in ("logging", "builtins") or travels(code)


def _is_kept_elsewhere(handler: logging.Handler) -> bool:
    kind = type(handler)
    is_file = kind is logging.FileHandler or kind.__module__ == "logging.handlers"
    return is_file or travels(kind)


def _of_patches(functions: Iterable[types.FunctionType]) -> Iterator[tuple[str, str]]:
    """Functions and methods of libraries that cells have replaced or added."""
    for fn in functions:
        late = (sys.modules.get(name) for name in late_imports(fn.__code__))
        for owner in (*captured(fn).values(), *fn.__annotations__.values(), *late):
            if isinstance(owner, types.ModuleType):
                if owner.__name__ != "__main__" and not is_local(owner):
                    yield from _patched(owner)
                    for kind in [m for m in list(vars(owner).values()) if isinstance(m, type)]:
                        yield from () if travels(kind) else _patched(kind)
            elif isinstance(owner, type) and not travels(owner):
                yield from _patched(owner)


def _patched(owner: Any) -> Iterator[tuple[str, str]]:
    for key, member in list(vars(owner).items()):
        if isinstance(member, types.FunctionType) and member.__module__ == "__main__":
            name = member.__name__
            call = f"{name}(...)" if name.isidentifier() else "that function"
            yield f"{owner.__name__}.{key}", f"call {call} itself"


def _of_late_modules(functions: Iterable[types.FunctionType]) -> Iterator[tuple[str, str]]:
    """Context variables that are set, and collections with parts of cells, in local modules.

    A replica imports these modules anew.
    """
    context = contextvars.copy_context()
    names = {name for fn in functions for name in late_modules(fn)}
    for module in sorted(names & sys.modules.keys()):
        for key, member in list(vars(sys.modules[module]).items()):
            if isinstance(member, contextvars.ContextVar) and member in context:
                yield f"{module}.{key}", f"{key}.set(...)"
            elif isinstance(member, (dict, list, set)) and not key.startswith("__"):
                parts = [*member, *(member.values() if isinstance(member, dict) else ())]
                if any(getattr(part, "__module__", None) == "__main__" for part in parts):
                    yield f"{module}.{key}", f"fill {key} again"


def _packages(functions: Iterable[types.FunctionType]) -> Iterator[str]:
    """Top-level packages of what functions name, import and are annotated with."""
    for fn in functions:
        late = late_imports(fn.__code__)
        for module, source in late_modules(fn).items():
            late |= imported_names(source, module)
        for name in late:
            yield name.partition(".")[0]
        for value in (*captured(fn).values(), *fn.__annotations__.values()):
            if isinstance(value, types.ModuleType):
                yield value.__name__.partition(".")[0]
            else:
                module = getattr(value, "__module__", None) or type(value).__module__
                yield str(module).partition(".")[0]
