"""DataFrames at the border: as records, as files, and typed by a model of their rows."""

from __future__ import annotations

import enum
import io
import json
import os
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
    return read_table(Path(value).read_bytes()) if isinstance(value, os.PathLike) else value


def read_table(data: bytes) -> Any:
    """Read a file as a DataFrame: an Arrow IPC stream, Parquet, or CSV in UTF-8 with a header.

    Raises:
        InputError: it is none of these.
    """
    import pandas as pd

    if data.startswith(b"\xff\xff\xff\xff"):
        return frame_from_arrow(data)
    is_parquet = data.startswith(b"PAR1")
    try:
        return pd.read_parquet(io.BytesIO(data)) if is_parquet else pd.read_csv(io.BytesIO(data))
    except (ValueError, OSError) as error:
        raise InputError(
            f"not a table: {error}", expected="an Arrow IPC stream, Parquet, or CSV in UTF-8"
        ) from None


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


def frame_from_arrow(data: bytes) -> Any:
    """Deserialize a DataFrame from an Arrow IPC stream.

    Raises:
        InputError: it is not one.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(data) as reader:
            return reader.read_all().to_pandas()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"not an Arrow IPC stream: {error}") from None
