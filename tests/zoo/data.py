"""Arrays, tables and images."""

import datetime as dt
import decimal
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image
from hypothesis import strategies as st

from mlkit import ImageSource
from mlkit.define.types import Upload
from mlkit.media.dataurl import to_data_url
from mlkit.media.image import Image, encode_png
from tests.zoo.classes import FRAME, IMAGE
from tests.zoo.ways import Entry

PNG = encode_png(IMAGE)
DAYS = pd.date_range("2026-01-01", periods=2, tz="Europe/Berlin")


def array(*values: Any, dtype: Any = None, **more: Any) -> Any:
    return np.array(values, dtype=dtype, **more)


ARRAYS = {
    **{
        name: array(0, 1, dtype=name)
        for name in ("bool", "uint8", "int8", "int16", "uint32", "int64", "float32", "float64")
    },
    "float16": array(0.5, dtype="float16"),
    "big-endian": array(1, 2, dtype=">i4"),
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "3-d": np.arange(24).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "nan": array(1.0, np.nan, np.inf),
}
LOSSLESS = {
    "complex64": array(1 + 2j, dtype="complex64"),
    "str": array("a", "bc"),
    "bytes": array(b"a", b"bc"),
    "datetime64": array("2026-01-01", "NaT", dtype="datetime64[ns]"),
    "timedelta64": array(1, dtype="timedelta64[s]"),
    "structured": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
}
OBJECTS = {
    **LOSSLESS,
    "structured-object": np.array([(1, "x")], dtype=[("a", "i4"), ("b", object)]),
    "object": array(1, None, "a", dtype=object),
    "object-nested": np.array([[1, [2]], [{"a": 1}, (1,)]], dtype=object),
    "StringDType": np.array(["a", "größe"], dtype=np.dtypes.StringDType()),
    "masked": np.ma.array([1, 2], mask=[False, True]),
    "recarray": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "matrix": np.array([[1, 2]]).view(np.matrix),
}

FRAMES = {
    "ints": pd.DataFrame({"a": [1, 2]}),
    "mixed-columns": FRAME,
    "floats": pd.DataFrame({"a": [1.5, np.nan]}),
    "bools": pd.DataFrame({"a": [True, False]}),
    "dtypes": pd.DataFrame({d: np.zeros(1, d) for d in ("int8", "uint16", "float32", "float16")}),
    "nullable": pd.DataFrame(
        {
            "a": pd.array([1, None], "Int64"),
            "b": pd.array([True, None], "boolean"),
            "c": pd.array([1.5, None], "Float32"),
        }
    ),
    "strings": pd.DataFrame(
        {"a": pd.array(["x", None], "string"), "b": pd.array(["x", None], "str")}
    ),
    "categories": pd.DataFrame(
        {
            "a": pd.Categorical(["x", "y"], ["y", "x", "z"], ordered=True),
            "b": pd.Categorical([1, 2]),
        }
    ),
    "dates": pd.DataFrame({"a": pd.to_datetime(["2026-01-01", None]), "b": DAYS}),
    "seconds": pd.DataFrame({"a": np.array(["2026-01-01"], "datetime64[s]")}),
    "durations": pd.DataFrame({"a": pd.to_timedelta([1, 2], "s")}),
    "periods": pd.DataFrame({"a": pd.period_range("2026-01", periods=2, freq="M")}),
    "intervals": pd.DataFrame({"a": pd.interval_range(0, 2)}),
    "sparse": pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}),
    "objects": pd.DataFrame({"a": [[1], (2,)], "b": [{"x": 1}, None], "c": [1, "a"]}),
    "objects-same": pd.DataFrame({"a": [1, 2]}, dtype=object),
    "decimals": pd.DataFrame({"a": [decimal.Decimal("1.10")], "b": [dt.date(2026, 1, 2)]}),
    "complex": pd.DataFrame({"a": [1 + 2j]}),
    "empty": pd.DataFrame(),
    "no-rows": pd.DataFrame({"a": pd.Series([], dtype="int32")}),
    "no-columns": pd.DataFrame(index=["a", "b"]),
    "index-text": pd.DataFrame({"a": [1, 2]}, index=["x", "y"]),
    "index-named": pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 7], name="id")),
    "index-range": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(4, 8, 2)),
    "index-dates": pd.DataFrame({"a": [1, 2]}, index=DAYS),
    "index-mixed": pd.DataFrame({"a": [1, 2]}, index=["x", 1]),
    "index-multi": pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_product([["x"], [1, 2]], names=["k", None])
    ),
    "index-category": pd.DataFrame({"a": [1, 2]}, index=pd.CategoricalIndex(["x", "y"])),
    "index-period": pd.DataFrame({"a": [1, 2]}, index=pd.period_range("2026", periods=2, freq="Y")),
    "index-interval": pd.DataFrame({"a": [1, 2]}, index=pd.interval_range(0, 2)),
    "index-repeated": pd.DataFrame({"a": [1, 2]}, index=[1, 1]),
    "columns-numbered": pd.DataFrame(np.arange(4.0).reshape(2, 2)),
    "columns-ints": pd.DataFrame([[1, 2]], columns=[3, 5]),
    "columns-multi": pd.DataFrame(
        [[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    ),
    "columns-mixed": pd.DataFrame([[1, 2]], columns=["a", 1]),
    "columns-dates": pd.DataFrame([[1, 2]], columns=DAYS),
    "columns-named": pd.DataFrame({"a": [1]}).rename_axis(columns="kind"),
    "columns-repeated": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "attrs": pd.DataFrame({"a": [1]}),
}
FRAMES["attrs"].attrs = {"source": "x"}
LOSSY = {"objects-same", "index-dates", "columns-mixed"}
"""Tables of which the Arrow form loses something: dtype object, frequencies, mixed labels."""


ENTRIES = [
    Entry("ndarray", np.ndarray, tuple(ARRAYS.values())),
    Entry("ndarray-of-objects", np.ndarray, tuple(OBJECTS.values()), body=[1]),
    Entry("ndarray-results", np.ndarray, tuple(OBJECTS), result=OBJECTS.__getitem__),
    Entry("ndarray-uploads", np.ndarray, tuple(LOSSLESS.values()), body=[1], uploaded=True),
    Entry("NDArray", npt.NDArray[np.float32], (array(1.5, dtype="float32"),)),
    Entry("NDArray[Any]", npt.NDArray[Any], (array(1),)),
    Entry("NDArray[uint8]", npt.NDArray[np.uint8], (array(1, dtype="uint8"),)),
    Entry("NDArray[bool]", npt.NDArray[np.bool_], (array(True),)),
    Entry("NDArray-from-list", npt.NDArray[np.float32], ([1, 2],)),
    Entry("ndarray-from-list", np.ndarray, ([[1, 2]], (1.5,))),
    Entry("ndarray | None", np.ndarray | None, (array(1), None)),
    Entry("list[ndarray]", list[np.ndarray], ([array(1), array(1.5)],)),
    Entry("dict[str, ndarray]", dict[str, np.ndarray], ({"a": array(1)},)),
    Entry("tuple[ndarray, int]", tuple[np.ndarray, int], ((array(1), 2),)),
    Entry("np.float64", np.float64, refused=True),
    Entry("np.int64", np.int64, refused=True),
    Entry("DataFrame", pd.DataFrame, (FRAME,)),
    Entry("DataFrame-of-all-kinds", pd.DataFrame, tuple(FRAMES.values()), body=[{"a": 1}]),
    Entry("DataFrame-results", pd.DataFrame, tuple(FRAMES), result=FRAMES.__getitem__),
    Entry(
        "DataFrame-uploads",
        pd.DataFrame,
        tuple(frame for name, frame in FRAMES.items() if name not in LOSSY),
        body=[{"a": 1}],
        uploaded=True,
    ),
    Entry("DataFrame-from-dict", pd.DataFrame, ({"a": [1, 2]}, [{"a": 1}])),
    Entry("DataFrame | None", pd.DataFrame | None, (FRAME, None)),
    Entry("dict[str, DataFrame]", dict[str, pd.DataFrame], ({"a": FRAME},)),
    Entry("Series", pd.Series, refused=True),
    Entry("Index", pd.Index, refused=True),
    Entry("Timestamp", pd.Timestamp, refused=True),
    Entry("Image", Image, (IMAGE,)),
    Entry(
        "Image-pil",
        Image,
        (PIL.Image.new("RGB", (3, 2), "red"),),
        body=to_data_url(PNG, "image/png"),
    ),
    Entry("Image-bytes", Image, (PNG,)),
    Entry("Image | None", Image | None, (IMAGE, None)),
    Entry("list[Image]", list[Image], ([IMAGE, IMAGE],)),
    Entry("tuple[Image, ...]", tuple[Image, ...], ((IMAGE,),)),
    Entry("dict[str, Image]", dict[str, Image], ({"a": IMAGE},)),
    Entry("tuple[Image, float]", tuple[Image, float], ((IMAGE, 0.5),)),
    Entry(
        "ImageSource", ImageSource, (PNG, "data:image/png;base64,AAAA", "https://a.example/b.png")
    ),
    Entry("ImageSource | None", ImageSource | None, (PNG, None)),
    Entry("list[ImageSource]", list[ImageSource], ([PNG, "https://a.example/b.png"], [PNG, PNG])),
    Entry("dict[str, ImageSource]", dict[str, ImageSource], ({"a": PNG},)),
    Entry("Upload", Annotated[bytes, Upload(media_type="audio/wav")], (b"ab",)),
    Entry("list[Upload]", list[Annotated[bytes, Upload(media_type="audio/wav")]], ([b"ab"],)),
    Entry("PIL.Image", PIL.Image.Image, refused=True),
    Entry("arrays", np.ndarray, st.lists(st.floats(width=32), max_size=3).map(np.array)),
]
