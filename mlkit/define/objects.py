"""What arrays and tables consist of, as far as it may hold Python objects."""

from __future__ import annotations

from typing import Any

__all__ = ["column", "parts"]


def parts(value: Any) -> list[Any] | None:
    """Return what may hold Python objects in an array or a table; None for any other value."""
    package = type(value).__module__.partition(".")[0]
    if package == "pandas":
        return _pandas_parts(value)
    if package != "numpy":
        return None
    import numpy as np

    known = type(value) in (np.ndarray, np.ma.MaskedArray, np.recarray, np.matrix)
    if not known or not value.dtype.hasobject:
        return [] if known else None
    if value.dtype.names is not None:
        return [value[name] for name in value.dtype.names]
    return list(np.asarray(value).ravel()) if value.dtype == object else []


def _pandas_parts(value: Any) -> list[Any] | None:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        columns = [column(value.iloc[:, i].array) for i in range(value.shape[1])]
        return [*columns, value.index, value.columns, value.attrs]
    if isinstance(value, pd.Series):
        return [column(value.array), value.index, value.name, value.attrs]
    if isinstance(value, pd.MultiIndex):
        return [*value.levels, *value.names]
    if isinstance(value, pd.Index):
        return [column(value.array), value.name]
    if isinstance(value, pd.Categorical):
        return [value.categories]
    return [] if isinstance(getattr(value, "dtype", None), pd.StringDtype) else None


def column(array: Any) -> Any:
    """Return the plain array of numpy's dtypes, and pandas' own of others."""
    from numpy import dtype
    from pandas.arrays import NumpyExtensionArray

    plain = isinstance(array, NumpyExtensionArray) or isinstance(array.dtype, dtype)
    return array.to_numpy() if plain else array
