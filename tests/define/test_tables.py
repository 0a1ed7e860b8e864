"""DataFrames at the border: files, and columns typed by a model of their rows."""

from __future__ import annotations

import datetime
import io
import struct
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from pydantic import BaseModel, Field

from mlkit import Rows, pipeline, step
from mlkit.define import tables
from mlkit.define.border import port
from mlkit.define.conform import conform_to
from mlkit.define.tables import frame_from_arrow, frame_to_arrow
from mlkit.errors import DefinitionError, InputError


class Kind(Enum):
    HOUSE = "house"
    FLAT = "flat"


class House(BaseModel):
    area: float = Field(gt=0, alias="area (m²)")
    rooms: int | None = None
    garden: bool = False
    town: str = "?"
    kind: Kind = Kind.HOUSE
    sold: datetime.date | None = None


Houses = Annotated[pd.DataFrame, Rows(House)]

DTYPES = {"area (m²)": "float64", "rooms": "float64", "garden": "bool", "town": "str"}


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [csv, parquet, frame_to_arrow], ids=lambda fn: fn.__name__)
def test_a_table_is_read_from_files_of_several_formats(write: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [0.5, None]})
    target = port(pd.DataFrame)
    assert target.from_bytes is not None
    assert_frame_equal(target.from_bytes(write(frame)), frame)
    file = tmp_path / "table"
    file.write_bytes(write(frame))
    assert_frame_equal(target.local(file), frame)


@pytest.mark.parametrize("data", [b"\x89PNG\xff", b"PAR1 and no more", b"\xff\xff\xff\xff", b"\n"])
def test_a_file_that_is_no_table_is_an_input_error(data: bytes) -> None:
    target = port(pd.DataFrame)
    assert target.from_bytes is not None
    with pytest.raises(InputError):
        target.from_bytes(data)


RECORDS = [
    {"area (m²)": 80, "rooms": 3, "town": "Ulm", "kind": "flat", "sold": "2026-01-02"},
    {"area (m²)": "60.5", "garden": True},
]


def check_houses(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["area (m²)", "rooms", "garden", "town", "kind", "sold"]
    assert {name: str(table[name].dtype) for name in DTYPES} == DTYPES
    assert table["kind"].tolist() == ["flat", "house"]
    assert table["rooms"].isna().tolist() == [False, True]
    assert table["sold"][0] == datetime.date(2026, 1, 2)


def arrow(column: Any, metadata: dict[str, str] | None = None, **options: Any) -> bytes:
    """An Arrow IPC stream with one column."""
    schema = pa.schema([("x", column.type)], metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(pa.record_batch([column], schema))
    return bytes(sink.getvalue())


def forged(column: Any, numbers: list[int], others: list[int]) -> bytes:
    """A stream in which some 32-bit numbers are replaced by others."""
    old, new = (struct.pack(f"<{len(each)}i", *each) for each in (numbers, others))
    stream = arrow(column)
    assert stream.count(old) == 1
    return stream.replace(old, new)


def runs(length: int) -> Any:
    return pa.RunEndEncodedArray.from_arrays(pa.array([length], pa.int64()), pa.array([1.0]))


DAMAGED = {
    "offsets of texts": lambda: forged(
        pa.array(["abc", "def", "ghi"]), [0, 3, 6, 9], [0, 2**30, 2**30, 2**31 - 1]
    ),
    "offsets of lists": lambda: forged(
        pa.array([[1, 2], [3], [4]]), [0, 2, 3, 4], [0, 2**28, 2**28, 2**28]
    ),
    "indices": lambda: forged(
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(["a", "b"])),
        [0, 1, 0],
        [10**8, -5, 7],
    ),
    "texts": lambda: arrow(pa.array(["abcdef"])).replace(b"abcdef", b"\xff" * 6),
    "no metadata of pandas": lambda: arrow(pa.array([1]), {"pandas": "{}"}),
    "metadata of another kind": lambda: arrow(pa.array([1]), {"pandas": "[]"}),
    "deep metadata": lambda: arrow(pa.array([1]), {"pandas": "[" * 100_000}),
    "an unknown time zone": lambda: arrow(pa.array([1], pa.timestamp("ns", "../../etc/passwd"))),
    "a union": lambda: arrow(
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["a"])])
    ),
    "the length of metadata": lambda: b"\xff\xff\xff\xff" + struct.pack("<i", -5) + b"x" * 100,
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_table_is_an_input_error(what: str) -> None:
    with pytest.raises(InputError, match="not an Arrow IPC stream"):
        frame_from_arrow(DAMAGED[what]())


@pytest.mark.parametrize("column", [pa.nulls(10**9), runs(10**9)], ids=["nulls", "runs"])
def test_a_table_that_is_large_once_converted_is_refused_before(column: Any) -> None:
    target = port(pd.DataFrame)
    assert target.from_bytes is not None
    with pytest.raises(InputError, match="too large"):
        target.from_bytes(arrow(column))


def test_so_is_a_parquet_file_but_one_of_this_machine(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables.read_table, "__defaults__", (50,))
    frame = pd.DataFrame({"x": np.zeros(5_000)})  # in fewer bytes
    target = port(pd.DataFrame)
    assert target.from_bytes is not None
    with pytest.raises(InputError, match="5,000 rows and 1 columns"):
        target.from_bytes(parquet(frame))
    target.from_bytes(parquet(frame[:500]))
    file = tmp_path / "table"
    file.write_bytes(parquet(frame))
    assert len(target.local(file)) == 5_000


def test_a_parquet_file_that_announces_much_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(tables.read_table, "__defaults__", (50,))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": ["a" * 100_000]}), buffer, compression="zstd")
    target = port(pd.DataFrame)
    assert target.from_bytes is not None
    with pytest.raises(InputError, match="too large"):
        target.from_bytes(buffer.getvalue())


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize(
    "column", [pa.array(np.zeros(10_000)), pa.array(["a" * 10_000]).dictionary_encode()], ids=str
)
def test_a_compressed_stream_is_refused_since_its_size_is_unknown(column: Any, codec: str) -> None:
    assert len(frame_from_arrow(arrow(column))) == len(column)
    with pytest.raises(InputError, match="Content-Encoding: gzip"):
        frame_from_arrow(arrow(column, compression=codec))


def test_rows_are_validated_and_columns_typed() -> None:
    target = port(Houses)
    assert target.from_bytes is not None
    table = target.from_json(RECORDS)
    check_houses(table)
    assert_frame_equal(target.local(table), table)
    assert_frame_equal(target.local(table.iloc[::-1].iloc[::-1]), table)
    assert_frame_equal(target.from_bytes(csv(table)), table)
    assert_frame_equal(target.from_bytes(frame_to_arrow(table)), table)


def test_an_empty_table_has_columns_and_dtypes() -> None:
    table = port(Houses).from_json([])
    assert table.shape == (0, 6)
    assert {name: str(table[name].dtype) for name in DTYPES} == DTYPES


class Count(BaseModel):
    count: int


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([{"count": 1}, {"count": "x"}], r"\[1\]\.count"),
        ([{}], r"\[0\]\.count: Field required"),
        (pd.DataFrame({"count": [1.0, None]}), r"\[1\]\.count"),
        (pd.DataFrame({"other": [1]}), r"\[0\]\.count"),
        ([{"count": 2**70}], "count"),
        ("count\n1", "list"),
    ],
)
def test_an_invalid_row_is_an_input_error_that_names_it(rows: Any, place: str) -> None:
    with pytest.raises(InputError, match=place):
        port(Annotated[pd.DataFrame, Rows(Count)]).local(rows)


def test_json_and_schema_are_those_of_the_rows() -> None:
    target = port(Houses)
    first = target.to_json(target.from_json(RECORDS))[0]
    assert first == {**RECORDS[0], "area (m²)": 80.0, "garden": False}
    assert target.schema["items"] == {"$ref": "#/components/schemas/House"}


def test_a_result_has_the_columns_of_its_rows() -> None:
    conform = conform_to(Houses)
    assert conform is not None
    check_houses(conform(pd.DataFrame(RECORDS).assign(extra=1)))
    check_houses(conform(RECORDS))
    with pytest.raises(DefinitionError, match="area"):
        conform(pd.DataFrame({"rooms": [1]}))


class Street(BaseModel):
    houses: Houses
    side: Literal["left", "right"] = "left"


def test_typed_tables_may_be_nested() -> None:
    target = port(list[Street])
    street = target.from_json([{"houses": RECORDS}])[0]
    check_houses(street.houses)
    assert target.to_json([street])[0]["houses"][1]["area (m²)"] == 60.5


@step
def enlarge(houses: Houses, by: float) -> Houses:
    return houses.assign(**{"area (m²)": houses["area (m²)"] * by})


@pipeline
def extension(houses: Houses, by: float = 2) -> Houses:
    return enlarge(houses, by)


def test_a_pipeline_takes_and_returns_a_typed_table() -> None:
    assert not extension.problems
    table = extension(pd.DataFrame(RECORDS))
    check_houses(table)
    assert table["area (m²)"].tolist() == [160, 121]
