"""DataFrames at the border: as records, as files, and typed by a model of their rows."""

from __future__ import annotations

import enum
import io
import json
import os
import struct
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.define.port import Port, plain
from mlkit.define.typing import UNIONS, strip
from mlkit.errors import InputError, require_extra

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["ARROW", "Rows", "frame_from_arrow", "frame_port", "frame_to_arrow", "read_table"]

ARROW = "application/vnd.apache.arrow.stream"
"""Content type of a DataFrame as an Arrow IPC stream."""

MAX_CELLS = 20_000_000
"""Rows times columns of a table that is uploaded, at most, unless it has as many bytes."""

BYTES_PER_CELL = 8
"""What a Parquet file may take when it is decompressed, as far as it announces that."""

MEDIA_TYPES = f"{ARROW}, application/vnd.apache.parquet, text/csv"
"""Content types of the files that `read_table` reads."""


@dataclass(frozen=True)
class Rows:
    """Marks a DataFrame whose rows are validated by a pydantic model.

    ::

        class House(BaseModel):
            area: float = Field(gt=0)
            rooms: int | None = None

        Houses = Annotated[pd.DataFrame, Rows(House)]

    The DataFrame has one column per field, in their order, named by alias if there is one, and a
    default index. Columns of ``int``, ``float``, ``bool`` and ``str`` have the dtypes of these,
    also in an empty table. A missing value of a field that may be None is None to the model; any
    other field gets its default. In a column of ``int | None`` or ``float | None`` they are NaN.

    Attributes:
        model: validates each row.
    """

    model: type[BaseModel]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Validate as a list of the model's instances, and convert it to a DataFrame."""
        from pydantic_core import core_schema

        rows = handler.generate_schema(list[self.model])  # type: ignore[name-defined]
        return core_schema.no_info_before_validator_function(
            self._records,
            core_schema.no_info_after_validator_function(self._frame, rows),
            serialization=core_schema.plain_serializer_function_ser_schema(
                self._rows, return_schema=rows, when_used="json"
            ),
        )

    def _records(self, table: Any) -> Any:
        """Rows of a DataFrame as dicts; anything else as it is."""
        if not hasattr(table, "itertuples"):
            return table
        defaults = {
            field.alias or name
            for name, field in self.model.model_fields.items()
            if not field.is_required() and type(None) not in _members(field.annotation)
        }
        records = table.astype(object).where(table.notna(), None).to_dict("records")
        return [
            {
                name: value
                for name, value in record.items()
                if value is not None or name not in defaults
            }
            for record in records
        ]

    def _rows(self, frame: Any) -> list[BaseModel]:
        return [self.model.model_validate(record) for record in self._records(frame)]

    def _frame(self, rows: list[BaseModel]) -> Any:
        import pandas as pd

        columns: dict[str, Any] = {}
        for name, field in self.model.model_fields.items():
            values = [_plain(getattr(row, name)) for row in rows]
            try:
                column = pd.Series(values, dtype=_dtype(field.annotation))
            except OverflowError as error:
                raise ValueError(f"column {name!r}: {error}") from None
            columns[field.alias or name] = column
        return pd.DataFrame(columns)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _dtype(annotation: Any) -> str | None:
    """The dtype of a column, or None to infer it from the values."""
    members = _members(annotation)
    types = members - {type(None)}
    if types == {str}:
        return "str"
    if types <= {int, float} and members != {int}:
        return "float64"
    if members == {int}:
        return "int64"
    return "bool" if members == {bool} else None


def _members(annotation: Any) -> set[Any]:
    """The members of a union, or the type itself."""
    args = typing.get_args(annotation) if typing.get_origin(annotation) in UNIONS else ()
    return {strip(arg) for arg in args or [annotation]}


def frame_port(annotation: Any, own: Callable[[Any], Port | None]) -> Port:
    """Return the port of a DataFrame, which may be marked by `Rows`.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    require_extra("frames", "pyarrow")
    marks = getattr(annotation, "__metadata__", ())
    typed = any(isinstance(mark, Rows) for mark in marks)
    return _typed_port(annotation, own) if typed else _untyped_port(annotation)


def _typed_port(annotation: Any, own: Callable[[Any], Port | None]) -> Port:
    from mlkit.define.schema import Schema

    schema = Schema(annotation, own)
    return Port(
        annotation,
        schema.from_json,
        schema.to_python,
        lambda value: schema.from_json(_from_path(value)),
        schema.input,
        pydantic=schema,
        upload=True,
        media_type=MEDIA_TYPES,
        from_bytes=lambda data: schema.from_json(read_table(data)),
        to_bytes=lambda value: (frame_to_arrow(value), ARROW),
    )


def _untyped_port(annotation: Any) -> Port:
    import pandas as pd

    def from_json(value: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise InputError("not a table", expected="a list of records")
        return pd.DataFrame.from_records(value)

    def local(value: Any) -> Any:
        value = _from_path(value)
        if isinstance(value, pd.DataFrame):
            return value
        try:
            return pd.DataFrame(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"not a table: {error}", got=type(value).__name__) from None

    return Port(
        annotation,
        from_json,
        _json_records,
        local,
        {"type": "array", "items": {"type": "object"}, "description": "a list of records"},
        upload=True,
        media_type=MEDIA_TYPES,
        from_bytes=read_table,
        to_bytes=lambda value: (frame_to_arrow(value), ARROW),
        objects=True,
    )


def _json_records(frame: Any) -> Any:
    """Rows as JSON: text for dates and durations (ISO 8601), null for missing values."""
    import pandas as pd

    frame = frame.copy(deep=False)
    for i, dtype in enumerate(frame.dtypes):
        if isinstance(dtype, pd.PeriodDtype):
            frame.isetitem(i, frame.iloc[:, i].astype(str))
    if not frame.columns.is_unique:  # numbered, as pandas.read_csv does
        seen = pd.Series(frame.columns).groupby(frame.columns, sort=False).cumcount()
        labels = zip(frame.columns, seen, strict=True)
        frame.columns = [f"{label}.{n}" if n else label for label, n in labels]
    text = frame.to_json(
        orient="records", date_format="iso", date_unit="us", default_handler=_json_cell
    )
    return json.loads(text)


def _json_cell(value: Any) -> Any:
    """JSON form of an object that pandas does not know; it would write all of its attributes."""
    import pydantic_core

    return pydantic_core.to_jsonable_python(value, fallback=plain)


def _from_path(value: Any) -> Any:
    """The table in a file of this machine, which may have any size."""
    return read_table(Path(value).read_bytes(), None) if isinstance(value, os.PathLike) else value


def read_table(data: bytes, max_cells: int | None = MAX_CELLS) -> Any:
    """Read a file as a DataFrame: an Arrow IPC stream, Parquet, or CSV in UTF-8 with a header.

    Args:
        data: its content, which may come from anywhere.
        max_cells: rows times columns at most, unless it has as many bytes; None for any number.

    Raises:
        InputError: it is none of these, or too large.
    """
    import pandas as pd

    if max_cells is not None:
        max_cells = max(max_cells, len(data))

    if data.startswith(b"\xff\xff\xff\xff"):
        return frame_from_arrow(data, max_cells)
    try:
        if data.startswith(b"PAR1"):
            return _from_parquet(data, max_cells)
        return pd.read_csv(io.BytesIO(data))
    except InputError:
        raise
    except Exception as error:  # readers raise anything for what is damaged
        raise InputError(
            f"not a table: {error}", expected="an Arrow IPC stream, Parquet, or CSV in UTF-8"
        ) from None


def _from_parquet(data: bytes, max_cells: int | None) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(io.BytesIO(data)) as file:
        about = file.metadata
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        _check_size(about.num_rows, about.num_columns, max_cells, size)
        return _checked(file.read()).to_pandas()


def _check_size(rows: int, columns: int, max_cells: int | None, size: int = 0) -> None:
    if max_cells is not None and (rows * columns > max_cells or size > BYTES_PER_CELL * max_cells):
        raise InputError(
            "the table is too large",
            expected=f"at most {max_cells:,} cells, of {BYTES_PER_CELL} bytes on average",
            got=f"{rows:,} rows and {columns:,} columns",
        )


def _checked(table: Any) -> Any:
    """A table whose offsets, indices and texts are valid: reading does not look at them.

    Converted unchecked, they lead outside of their buffers, to what else is in memory.
    """
    table.validate(full=True)
    return table


def frame_to_arrow(frame: Any) -> bytes:
    """Serialize a DataFrame as an Arrow IPC stream, with index, dtypes and kinds of columns.

    Raises:
        InputError: a column has values of several types.
    """
    import pyarrow as pa

    try:
        table = pa.Table.from_pandas(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"the DataFrame has no Arrow form: {error}") from None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def frame_from_arrow(data: bytes, max_cells: int | None = None) -> Any:
    """Deserialize a DataFrame from an Arrow IPC stream, which may come from anywhere.

    Args:
        data: the stream.
        max_cells: rows times columns at most; None for any number.

    Raises:
        InputError: it is not one, too large, or compressed.
    """
    import pyarrow as pa

    try:
        # What a buffer becomes is only known to the reader, once it is there.
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(data))):
            raise InputError(
                "the Arrow IPC stream is compressed",
                fix="write it without compression, and compress the body: Content-Encoding: gzip",
            )
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        # Columns of nulls and of runs take no memory before they are converted.
        _check_size(table.num_rows, table.num_columns, max_cells)
        return _checked(table).to_pandas()
    except InputError:
        raise
    except Exception as error:  # pyarrow and pandas raise anything for what is damaged
        raise InputError(f"not an Arrow IPC stream: {error}") from None


def _is_compressed(message: Any) -> bool:
    """Whether the buffers of a message are; see Message.fbs and Schema.fbs of Arrow."""
    metadata = memoryview(message.metadata)
    header = _member(metadata, _target(metadata, 0), 2)
    if header is None or message.type not in ("record batch", "dictionary"):
        return False
    batch = _target(metadata, header)
    if message.type == "dictionary":
        data = _member(metadata, batch, 1)
        if data is None:
            return False
        batch = _target(metadata, data)
    return _member(metadata, batch, 3) is not None


def _target(buffer: memoryview, at: int) -> int:
    """Where an offset of FlatBuffers leads."""
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _member(buffer: memoryview, table: int, number: int) -> int | None:
    """Where a member of a table of FlatBuffers is; None if it is not there."""
    members = table - int(struct.unpack_from("<i", buffer, table)[0])
    size = struct.unpack_from("<H", buffer, members)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", buffer, members + at)[0] if at < size else 0
    return table + offset if offset else None
