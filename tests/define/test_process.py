"""Settings of this process that replicas do not have."""

import contextvars
import csv
import decimal
import importlib
import json
import locale
import logging
import os
import random
import socket
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageFile
import pytest
import sklearn
import torch

from mlkit.define.process import changed_settings

logger = logging.getLogger("a_shop")


def of_a_cell(*args: object) -> str:
    return "patched"


of_a_cell.__module__ = "__main__"


def with_random(x: float) -> float:
    return x + random.random()


def with_numpys_random(x: float) -> float:
    return x + np.random.uniform()


def with_logging(x: int) -> int:
    logger.info("%d", x)
    return x


def with_textwrap(x: str) -> str:
    import textwrap

    return textwrap.indent(x, " ")


def with_numpy(x: float) -> float:
    return float(np.exp(x))


def with_decimal(x: decimal.Decimal) -> object:
    return x / 3


def with_csv(x: str) -> list[str]:
    return next(csv.reader([x], "semi"))


def with_json(x: object) -> str:
    return json.dumps(x)


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


def set_traps(undo: Callable[..., Any]) -> None:
    undo(decimal.setcontext, decimal.getcontext().copy())
    decimal.getcontext().traps[decimal.FloatOperation] = True


def register_dialect(undo: Callable[..., Any]) -> None:
    undo(csv.unregister_dialect, "semi")
    csv.register_dialect("semi", delimiter=";")


def set_print_options(undo: Callable[..., Any]) -> None:
    undo(np.set_printoptions, formatter=None)
    np.set_printoptions(formatter={"float": str})


def set_digits(undo: Callable[..., Any]) -> None:
    cells(undo, "sys.set_int_max_str_digits(0)")
    undo(sys.set_int_max_str_digits, sys.get_int_max_str_digits())
    sys.set_int_max_str_digits(0)


def set_timeout(undo: Callable[..., Any]) -> None:
    cells(undo, "socket.setdefaulttimeout(5)")
    undo(socket.setdefaulttimeout, None)
    socket.setdefaulttimeout(5)


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


def cells(undo: Callable[..., Any], text: str) -> None:
    """Let this be a notebook with a cell of this text."""
    undo(delattr, sys.modules["__main__"], "In")
    sys.modules["__main__"].In = ["", text]  # type: ignore[attr-defined]


def set_warnings(undo: Callable[..., Any]) -> None:
    cells(undo, "warnings.simplefilter('error')")
    undo(warnings.filters.pop, 0)  # type: ignore[attr-defined]
    warnings.filters.insert(0, ("error", None, Warning, None, 0))  # type: ignore[attr-defined]


def set_seed(undo: Callable[..., Any]) -> None:
    cells(undo, "random.seed(1)")


def set_seed_of_numpy(undo: Callable[..., Any]) -> None:
    cells(undo, "np.random.seed(1)")


def add_handler(undo: Callable[..., Any]) -> None:
    handler = logging.FileHandler(os.devnull, delay=True)
    undo(logger.removeHandler, handler)
    logger.addHandler(handler)


class Filter(logging.Filter):
    """Of a module that is not installed."""


class OfLibrary(logging.Filter):
    __module__ = "_pytest.logging"

    @staticmethod
    def is_shown(record: logging.LogRecord) -> bool:
        return True


OfLibrary.is_shown.__module__ = OfLibrary.__module__


def add_filter(undo: Callable[..., Any], log_filter: Any = bool) -> None:
    undo(logger.removeFilter, log_filter)
    logger.addFilter(log_filter)


def patch_module(undo: Callable[..., Any]) -> None:
    undo(setattr, textwrap, "indent", textwrap.indent)
    textwrap.indent = of_a_cell  # type: ignore[assignment]


def patch_encoder(undo: Callable[..., Any]) -> None:
    undo(setattr, json.JSONEncoder, "default", json.JSONEncoder.default)
    json.JSONEncoder.default = of_a_cell  # type: ignore[assignment]


def patch_tables(undo: Callable[..., Any]) -> None:
    undo(delattr, pd.DataFrame, "shop")
    pd.DataFrame.shop = of_a_cell


@pytest.mark.parametrize(
    ("change", "function", "name", "code"),
    [
        (set_warnings, with_nothing, "warnings.simplefilter('error')", "catch_warnings():"),
        (set_seed, with_random, "random.seed", "random.Random(...)"),
        (set_seed_of_numpy, with_numpys_random, "np.random.seed", "np.random.default_rng(...)"),
        (add_handler, with_logging, "the FileHandler of the logger 'a_shop'", "resource("),
        (add_filter, with_logging, "a filter of the logger 'a_shop'", "resource("),
        (patch_module, with_textwrap, "textwrap.indent", "call of_a_cell(...) itself"),
        (patch_tables, with_pandas, "DataFrame.shop", "call of_a_cell(...) itself"),
        (set_error_state, with_numpy, "np.seterr", "with np.errstate(...):"),
        (set_error_state, through_a_helper, "np.seterr", "with np.errstate(...):"),
        (set_precision, with_decimal, "decimal.getcontext", "with decimal.localcontext(...):"),
        (set_traps, with_decimal, "decimal.getcontext", "with decimal.localcontext(...):"),
        (register_dialect, with_csv, "csv.register_dialect", "csv.register_dialect(...)"),
        (set_print_options, with_numpy, "np.set_printoptions", "with np.printoptions(...):"),
        (set_digits, with_nothing, "sys.set_int_max_str_digits", "set_int_max_str_digits(...)"),
        (set_timeout, with_nothing, "socket.setdefaulttimeout", "setdefaulttimeout(...)"),
        (patch_encoder, with_json, "JSONEncoder.default", "call of_a_cell(...) itself"),
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


@pytest.mark.parametrize(
    "log_filter",
    [
        Filter("a_shop"),
        logging.Filter("a_shop"),
        with_nothing,
        lambda record: True,
        partial(with_nothing),
    ],
)
def test_filters_of_a_cell_are_named(undo: Callable[..., Any], log_filter: Any) -> None:
    add_filter(undo, log_filter)
    assert list(changed_settings([with_logging])) == ["a filter of the logger 'a_shop'"]


@pytest.mark.parametrize("log_filter", [OfLibrary(), OfLibrary.is_shown])
@pytest.mark.parametrize("on", [logger, logging.root])
def test_filters_of_libraries_are_not_named(
    undo: Callable[..., Any], on: logging.Logger, log_filter: Any
) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(log_filter)
    undo(on.removeHandler, handler)
    on.addHandler(handler)
    assert changed_settings([with_logging]) == {}


@pytest.mark.parametrize("stream", [sys.stderr, sys.stdout])
def test_handlers_for_the_console_are_those_of_replicas_too(undo, stream) -> None:
    handler = logging.StreamHandler(stream)
    undo(logger.removeHandler, handler)
    logger.addHandler(handler)
    assert changed_settings([with_logging]) == {}


def test_seeds_of_generators_that_nothing_draws_from_are_not_named(undo) -> None:
    cells(undo, "import random, numpy as np\nrandom.seed(1)\nnp.random.seed(1)")
    assert changed_settings([with_numpy]) == {}


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


def test_what_cells_put_into_a_module_that_is_imported_late_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from contextvars import ContextVar\nTENANT = ContextVar('TENANT', default='')\n"
    text += "RULES = {}\nSIZES = []\ndef rule(f): RULES[f.__name__] = f\n@rule\ndef plain(): pass\n"
    (tmp_path / "late_shop.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def late(x):\n    import late_shop\n    return late_shop.RULES", names)
    shop: Any = importlib.import_module("late_shop")

    def changed() -> Any:
        return changed_settings([names["late"]])

    shop.SIZES.append(1)  # plain data is sent along
    assert changed() == {}
    shop.rule(of_a_cell)
    shop.SIZES.append(Accessor())
    context = contextvars.copy_context()
    context.run(shop.TENANT.set, "a")
    assert context.run(changed) == {
        "late_shop.TENANT": "TENANT.set(...)",
        "late_shop.RULES": "fill RULES again",
        "late_shop.SIZES": "fill SIZES again",
    }
