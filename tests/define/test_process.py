"""Settings of this process that replicas do not have."""

import decimal
import locale
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageFile
import pytest
import sklearn
import torch

from mlkit.define.process import changed_settings


def with_numpy(x: float) -> float:
    return float(np.exp(x))


def with_decimal(x: decimal.Decimal) -> object:
    return x / 3


def with_torch(x: int) -> object:
    return torch.ones(x)


def with_sklearn(x: int) -> object:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler(x)


def with_pillow(x: bytes) -> object:
    return PIL.Image.open(x)


def with_pandas(x: pd.DataFrame) -> int:
    return x.shop.size


def with_locale(x: float) -> str:
    return locale.str(x)


def through_a_helper(x: float) -> float:
    return with_numpy(x)


def with_nothing(x: int) -> int:
    return x


class Accessor:
    """An accessor of a cell."""

    __module__ = "__main__"


@pytest.fixture
def undo() -> Any:
    """Undoes what is pushed onto it."""
    with ExitStack() as stack:
        yield stack.callback


def set_error_state(undo: Callable[..., Any]) -> None:
    undo(np.seterr, **np.seterr(all="raise"))


def set_precision(undo: Callable[..., Any]) -> None:
    undo(decimal.setcontext, decimal.getcontext().copy())
    decimal.getcontext().prec = 5


def set_dtype(undo: Callable[..., Any]) -> None:
    undo(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def set_device(undo: Callable[..., Any]) -> None:
    undo(torch.set_default_device, None)
    torch.set_default_device("meta")


def set_grad(undo: Callable[..., Any]) -> None:
    undo(torch.set_grad_enabled, True)
    torch.set_grad_enabled(False)


def set_matmul(undo: Callable[..., Any]) -> None:
    undo(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("medium")


def set_output(undo: Callable[..., Any]) -> None:
    undo(sklearn.set_config, transform_output="default")
    sklearn.set_config(transform_output="pandas")


def set_pixels(undo: Callable[..., Any]) -> None:
    undo(setattr, PIL.Image, "MAX_IMAGE_PIXELS", PIL.Image.MAX_IMAGE_PIXELS)
    PIL.Image.MAX_IMAGE_PIXELS = None


def set_truncated(undo: Callable[..., Any]) -> None:
    undo(setattr, PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True


def set_option(undo: Callable[..., Any]) -> None:
    undo(pd.reset_option, "display.max_rows")
    pd.set_option("display.max_rows", 3)


def set_accessor(undo: Callable[..., Any]) -> None:
    undo(pd.DataFrame._accessors.discard, "shop")
    undo(delattr, pd.DataFrame, "shop")
    pd.api.extensions.register_dataframe_accessor("shop")(Accessor)


def set_locale(undo: Callable[..., Any]) -> None:
    undo(locale.setlocale, locale.LC_TIME, locale.setlocale(locale.LC_TIME))
    locale.setlocale(locale.LC_TIME, "C.UTF-8")


def set_recursion_limit(undo: Callable[..., Any]) -> None:
    undo(sys.setrecursionlimit, sys.getrecursionlimit())
    undo(delattr, sys.modules["__main__"], "In")
    sys.modules["__main__"].In = ["", "sys.setrecursionlimit(5000)"]
    sys.setrecursionlimit(5000)


@pytest.mark.parametrize(
    ("change", "function", "name", "code"),
    [
        (set_error_state, with_numpy, "np.seterr", "with np.errstate(...):"),
        (set_error_state, through_a_helper, "np.seterr", "with np.errstate(...):"),
        (set_precision, with_decimal, "decimal.getcontext", "with decimal.localcontext(...):"),
        (set_dtype, with_torch, "torch.set_default_dtype", "torch.set_default_dtype(...)"),
        (set_device, with_torch, "torch.set_default_device", "with torch.device(...):"),
        (set_grad, with_torch, "torch.set_grad_enabled", "with torch.no_grad():"),
        (set_matmul, with_torch, "torch.set_float32_matmul_precision", "matmul_precision(...)"),
        (set_output, with_sklearn, "sklearn.set_config", "with sklearn.config_context(...):"),
        (set_pixels, with_pillow, "PIL.Image.MAX_IMAGE_PIXELS", "MAX_IMAGE_PIXELS = ..."),
        (set_truncated, with_pillow, "PIL.ImageFile.LOAD_TRUNCATED_IMAGES", "IMAGES = ..."),
        (set_option, with_pandas, "the option 'display.max_rows' of pandas", "option_context("),
        (set_accessor, with_pandas, "the accessor 'shop' of DataFrame", "'shop')(Accessor)"),
        (set_locale, with_locale, "locale.setlocale", "locale.setlocale(...)"),
        (set_recursion_limit, with_nothing, "sys.setrecursionlimit", "setrecursionlimit(...)"),
    ],
)
def test_a_changed_setting_is_named_if_its_library_is_used(
    undo, change, function, name, code
) -> None:
    assert changed_settings([function]) == {}
    change(undo)
    settings = changed_settings([function])
    assert list(settings) == [name]
    assert code in settings[name]


def test_a_recursion_limit_that_a_library_sets_is_not_named(undo: Callable[..., Any]) -> None:
    undo(sys.setrecursionlimit, sys.getrecursionlimit())
    sys.setrecursionlimit(5000)
    assert changed_settings([with_nothing]) == {}


@pytest.mark.parametrize("change", [set_error_state, set_precision, set_dtype, set_option])
def test_a_setting_of_a_library_that_nothing_uses_is_not(undo, change) -> None:
    change(undo)
    assert changed_settings([with_nothing]) == {}


def test_libraries_of_a_module_that_is_imported_late_count(
    undo: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_statistics.py").write_text("import numpy as np\ndef exp(x): return np.exp(x)")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def late(x):\n    from late_statistics import exp\n    return exp(x)", names)
    assert changed_settings([names["late"]]) == {}
    set_error_state(undo)
    assert list(changed_settings([names["late"]])) == ["np.seterr"]
