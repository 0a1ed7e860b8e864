"""Settings of this process that replicas do not have, such as ``np.seterr``."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mlkit.define.code import captured, late_imports, travels
from mlkit.define.modules import functions_of, imported_names, late_modules

__all__ = ["changed_settings"]


def changed_settings(functions: Iterable[Any]) -> dict[str, str]:
    """Return the settings that are not the default, and code that sets each in a step, by name.

    Only of libraries that the functions name, import or are annotated with, and of Python itself.
    """
    packages = {"", *_packages(functions_of(functions))} & {"", *sys.modules}
    changed = {
        name: code
        for package, name, code, is_default in _SETTINGS
        if package in packages and not is_default(sys.modules.get(package))
    }
    return changed | (dict(_of_pandas(sys.modules["pandas"])) if "pandas" in packages else {})


def _is_recursion_limit_default(_: Any) -> bool:
    """Whether no cell and no script has set it: libraries do, such as jedi and hypothesis."""
    return sys.getrecursionlimit() == 1000 or "setrecursionlimit" not in _main_source()


def _main_source() -> str:
    main = sys.modules["__main__"]
    cells = getattr(main, "In", None)
    if isinstance(cells, list):
        return "\n".join(cells)
    try:
        return inspect.getsource(main)
    except (OSError, TypeError):  # it has no file
        return ""


_Setting: typing.TypeAlias = tuple[str, str, str, Callable[[Any], bool]]
_SETTINGS: tuple[_Setting, ...] = (
    ("", "sys.setrecursionlimit", "sys.setrecursionlimit(...)", _is_recursion_limit_default),
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
        lambda decimal: (
            (decimal.getcontext().prec, decimal.getcontext().rounding)
            == (28, decimal.ROUND_HALF_EVEN)
        ),
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
