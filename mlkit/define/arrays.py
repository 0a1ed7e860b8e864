"""Values of numpy and pandas in terms of simpler ones, for the exact form.

`reduced` returns the name of a kind and a payload of scalars, lists, dicts, plain numpy arrays and
other values that can be reduced themselves; `restored` is its inverse. Unlike Arrow, this keeps
objects in columns, indexes and labels of every kind, frequencies, and subclasses of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlkit.define.objects import column
from mlkit.errors import InputError, require_extra

__all__ = ["KINDS", "frequency", "reduced", "restored"]


def reduced(value: Any) -> tuple[str, Any] | None:
    """Return kind and payload of a value; None for a plain array.

    Raises:
        InputError: the value has no exact form.
    """
    package = type(value).__module__.partition(".")[0]
    pair = _numpy(value) if package == "numpy" else _pandas(value)
    if pair is None:
        return None
    kind, payload = pair
    if kind not in KINDS:
        raise _no_form(value)
    return kind, payload


def restored(kind: str, payload: Any) -> Any:
    """Return the value of a kind and a payload whose parts are restored."""
    return KINDS[kind](payload)


def _no_form(value: Any) -> InputError:
    name = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    return InputError(
        f"values of type {name} have no exact form",
        fix="convert it to an array or a DataFrame first",
    )


def _numpy(value: Any) -> tuple[str, Any] | None:
    import numpy as np

    if isinstance(value, np.generic):
        return "scalar", np.asarray(value)
    if isinstance(value, np.dtype):
        return "dtype", value.str if value.names is None else value.descr
    if isinstance(value, np.ma.MaskedArray):
        mask = None if value.mask is np.ma.nomask else np.asarray(value.mask)
        return "masked", [np.asarray(value.data), mask, np.asarray(value.fill_value)]
    for name, cls in (("recarray", np.recarray), ("matrix", np.matrix)):
        if type(value) is cls:
            return name, value.view(np.ndarray)
    if type(value) is not np.ndarray:
        raise _no_form(value)
    if isinstance(value.dtype, np.dtypes.StringDType):
        missing = [value.dtype.na_object] if hasattr(value.dtype, "na_object") else []
        return "texts", [value.shape, value.ravel().tolist(), missing]
    if not value.dtype.hasobject:
        return None
    if value.dtype.names is not None:
        fields = {name: value[name] for name in value.dtype.names}
        return "records", [value.shape, value.dtype.descr, fields]
    return "objects", [value.shape, value.ravel().tolist()]


def _pandas(value: Any) -> tuple[str, Any]:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return "frame", _frame(value)
    if isinstance(value, pd.Series):
        return "series", [column(value.array), value.index, value.name, value.attrs]
    if isinstance(value, pd.Index):
        return _index(value)
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _extension(value)
    return _pandas_scalar(value)


def _pandas_scalar(value: Any) -> tuple[str, Any]:
    import pandas as pd

    if value is pd.NaT or value is pd.NA:
        return "missing", "NaT" if value is pd.NaT else "NA"
    if isinstance(value, pd.Timestamp):
        return "Timestamp", [value.asm8, value.tzinfo]
    if isinstance(value, pd.Timedelta):
        return "Timedelta", value.asm8
    if isinstance(value, pd.Period):
        return "Period", [value.ordinal, value.freqstr]
    if isinstance(value, pd.Interval):
        return "Interval", [value.left, value.right, value.closed]
    if type(value) is getattr(pd.offsets, type(value).__name__, None):
        # The calendar is made from the others again.
        parameters = {name: part for name, part in value.kwds.items() if name != "calendar"}
        return "offset", [type(value).__name__, value.n, value.normalize, parameters]
    return "", None


def _frame(frame: Any) -> dict[str, Any]:
    from numpy import dtype

    labels = {"index": frame.index, "columns": frame.columns, "attrs": frame.attrs}
    kinds = set(frame.dtypes)
    same = len(kinds) == 1 and isinstance(next(iter(kinds)), dtype)
    if same and not next(iter(kinds)).hasobject:  # much quicker than column by column
        return {**labels, "values": frame.to_numpy()}
    return {**labels, "arrays": [column(frame.iloc[:, i].array) for i in range(frame.shape[1])]}


def _index(index: Any) -> tuple[str, Any]:
    import pandas as pd

    if isinstance(index, pd.RangeIndex):
        return "range_index", [index.start, index.stop, index.step, index.name]
    if isinstance(index, pd.MultiIndex):
        return "multi_index", [list(index.levels), list(index.codes), list(index.names)]
    return "index", [column(index.array), index.name, frequency(index)]


def frequency(index: Any) -> Any:
    """Return the frequency of an index of moments or spans; None for any other value."""
    kinds = ("DatetimeIndex", "TimedeltaIndex")  # that of a PeriodIndex is in its dtype
    return index.freq if type(index).__name__ in kinds else None


def _extension(array: Any) -> tuple[str, Any]:
    import numpy as np
    import pandas as pd

    dtype = array.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "categories", [array.codes, array.categories, array.ordered]
    if isinstance(dtype, pd.IntervalDtype):
        return "intervals", [array.left, array.right, array.closed]
    if isinstance(dtype, pd.PeriodDtype):
        return "periods", [array.asi8, array.freqstr]
    if isinstance(dtype, pd.SparseDtype):
        return "sparse", [np.asarray(array), array.fill_value]
    if isinstance(dtype, pd.DatetimeTZDtype):
        return "moments", [array.tz_convert("UTC").tz_localize(None).to_numpy(), array.tz]
    if isinstance(dtype, pd.StringDtype):
        items = [None if item is dtype.na_value or item != item else item for item in array]
        return "strings", [items, dtype.storage, dtype.na_value is pd.NA]
    if isinstance(dtype, pd.ArrowDtype):
        from mlkit.define.tables import frame_to_arrow

        return "arrow", frame_to_arrow(pd.DataFrame({"values": array}))
    if hasattr(dtype, "numpy_dtype"):  # integers, floats and booleans with missing values
        missing = array.isna()
        values = array.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
        return "nullable", [values, missing]
    raise _no_form(array)


def _to_masked(payload: Any) -> Any:
    import numpy as np

    data, mask, fill = payload
    masked: Any = np.ma.MaskedArray(data, np.ma.nomask if mask is None else mask)
    masked.fill_value = fill
    return masked


def _to_texts(payload: Any) -> Any:
    import numpy as np

    shape, items, missing = payload
    dtype: Any = np.dtypes.StringDType(na_object=missing[0]) if missing else np.dtypes.StringDType()
    return np.array(items, dtype=dtype).reshape(shape)


def _to_records(payload: Any) -> Any:
    import numpy as np

    shape, description, fields = payload
    array = np.empty(shape, dtype=np.dtype(description))
    for name, values in fields.items():
        array[name] = values
    return array


def _to_objects(payload: Any) -> Any:
    import numpy as np

    shape, items = payload
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):  # numpy would take nested lists apart
        array[i] = item
    return array.reshape(shape)


def _to_frame(payload: Any) -> Any:
    import pandas as pd

    index, columns = payload["index"], payload["columns"]
    if "values" in payload:
        frame = pd.DataFrame(payload["values"], index=index)
    else:
        arrays = enumerate(payload["arrays"])
        series = {i: pd.Series(a, index=index, dtype=a.dtype, copy=False) for i, a in arrays}
        frame = pd.DataFrame(series, index=index)
    frame.columns = columns
    frame.attrs = payload["attrs"]
    return frame


def _to_series(payload: Any) -> Any:
    import pandas as pd

    array, index, name, attrs = payload
    series = pd.Series(array, index=index, dtype=array.dtype, name=name)
    series.attrs = attrs
    return series


def _to_index(payload: Any) -> Any:
    import pandas as pd

    array, name, freq = payload
    index: Any = pd.Index(array, dtype=array.dtype, name=name)
    if freq is not None:  # its setter refuses some that pandas itself gives to a slice
        index._freq = index._data._freq = freq  # the latter is read before pandas 3.1
    return index


def _to_offset(payload: Any) -> Any:
    import pandas as pd

    name, n, normalize, parameters = payload
    cls = getattr(pd.offsets, name)
    if not issubclass(cls, pd.offsets.BaseOffset):
        raise ValueError(f"no offset: {name}")
    return cls(n, normalize, **parameters)


def _to_multi_index(payload: Any) -> Any:
    import pandas as pd

    levels, codes, names = payload
    return pd.MultiIndex(levels, codes, names=names, verify_integrity=False)


def _to_nullable(payload: Any) -> Any:
    import pandas as pd

    values, missing = payload
    kinds: Any = {"b": pd.arrays.BooleanArray, "f": pd.arrays.FloatingArray}
    return kinds.get(values.dtype.kind, pd.arrays.IntegerArray)(values, missing)


def _to_strings(payload: Any) -> Any:
    import numpy as np
    import pandas as pd

    items, storage, na = payload
    return pd.array(items, dtype=pd.StringDtype(storage, pd.NA if na else np.nan))


def _to_moments(payload: Any) -> Any:
    import pandas as pd

    values, zone = payload
    return pd.DatetimeIndex(values).tz_localize("UTC").tz_convert(zone).array


def _to_arrow(payload: bytes) -> Any:
    require_extra("frames", "pyarrow")
    import pandas as pd
    import pyarrow as pa

    with pa.ipc.open_stream(payload) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return pd.arrays.ArrowExtensionArray(table.column("values"))


def _to_timestamp(payload: Any) -> Any:
    import pandas as pd

    moment, zone = payload
    moment = pd.Timestamp(moment)
    return moment if zone is None else moment.tz_localize("UTC").tz_convert(zone)


def _with_pandas(build: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def restore(payload: Any) -> Any:
        import pandas as pd

        return build(pd, payload)

    return restore


def _with_numpy(build: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def restore(payload: Any) -> Any:
        import numpy as np

        return build(np, payload)

    return restore


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "scalar": lambda array: array[()],
    "dtype": _with_numpy(lambda np, payload: np.dtype(payload)),
    "masked": _to_masked,
    "recarray": _with_numpy(lambda np, array: array.view(np.recarray)),
    "matrix": _with_numpy(lambda np, array: array.view(np.matrix)),
    "texts": _to_texts,
    "records": _to_records,
    "objects": _to_objects,
    "frame": _to_frame,
    "series": _to_series,
    "range_index": _with_pandas(lambda pd, p: pd.RangeIndex(*p[:3], name=p[3])),
    "multi_index": _to_multi_index,
    "index": _to_index,
    "offset": _to_offset,
    "missing": _with_pandas(lambda pd, name: pd.NaT if name == "NaT" else pd.NA),
    "Timestamp": _to_timestamp,
    "Timedelta": _with_pandas(lambda pd, span: pd.Timedelta(span)),
    "Period": _with_pandas(lambda pd, p: pd.Period(ordinal=p[0], freq=p[1])),
    "Interval": _with_pandas(lambda pd, p: pd.Interval(*p)),
    "categories": _with_pandas(
        lambda pd, p: pd.Categorical.from_codes(p[0], categories=p[1], ordered=p[2])
    ),
    "intervals": _with_pandas(lambda pd, p: pd.arrays.IntervalArray.from_arrays(*p)),
    "periods": _with_pandas(lambda pd, p: pd.arrays.PeriodArray(p[0], dtype=pd.PeriodDtype(p[1]))),
    "sparse": _with_pandas(lambda pd, p: pd.arrays.SparseArray(p[0], fill_value=p[1])),
    "moments": _to_moments,
    "strings": _to_strings,
    "arrow": _to_arrow,
    "nullable": _to_nullable,
}
"""Restores a value from its payload, by kind."""
