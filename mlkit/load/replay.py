"""Schedules from recorded timestamps: `replay`."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlkit.errors import LoadError, entry_point
from mlkit.load import parquet
from mlkit.load.spec import Schedule, check_positive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["RecordedTimes", "replay"]

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
WHERE = "replay(...)"


@dataclass(frozen=True, kw_only=True, repr=False)
class RecordedTimes(Schedule):
    """Send times that were recorded; see `replay`.

    Attributes:
        data: the times in seconds from the start, ascending, as little-endian doubles.
        span_s: length of the recording.
    """

    data: bytes
    span_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.float64], span_s: float) -> RecordedTimes:
        """Take times in seconds from the start, in any order.

        Raises:
            LoadError: there is none.
        """
        import numpy as np

        if not len(times_s):
            raise LoadError("there is no timestamp to replay", where=WHERE)
        return cls(data=np.sort(times_s).astype("<f8").tobytes(), span_s=span_s)

    @property
    def kind(self) -> str:
        """Name of the function that returns it."""
        return "replay"

    @property
    def length_s(self) -> float:
        """Length of the recording."""
        return self.span_s

    @property
    def opening_rate(self) -> float:
        """The mean rate of the recording."""
        return len(self) / self.span_s

    def batches(self, duration_s: float) -> Iterator[NDArray[np.float64]]:
        """Yield all times at once."""
        import numpy as np

        times = np.frombuffer(self.data, "<f8")
        yield times[times < duration_s]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data; the times are compressed, in base64."""
        times = base64.b64encode(zlib.compress(self.data)).decode()
        return {"kind": self.kind, "times": times, "span_s": self.span_s}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RecordedTimes:
        """Restore what `to_dict` converted."""
        return cls(data=zlib.decompress(base64.b64decode(fields["times"])), span_s=fields["span_s"])

    def __len__(self) -> int:
        return len(self.data) // 8

    def __repr__(self) -> str:
        return f"replay(<{len(self):,} times in {self.span_s:g} s>)"


@entry_point
def replay(
    source: Any,
    *,
    column: str | None = None,
    unit: Literal["s", "ms", "us", "ns"] = "s",
    speed: float = 1.0,
) -> RecordedTimes:
    """Send requests at recorded times, for instance those of an access log.

    The first request is sent at the start, and the others as long after it as they were recorded.
    Timestamps need not be sorted.

    Args:
        source: a ``.csv`` or ``.parquet`` file, a DataFrame, or timestamps: a Series, an array or a
            list. Numbers are in ``unit``; datetimes and ISO 8601 texts are recognised.
        column: name of the column with the timestamps, where there is more than one column.
        unit: of timestamps that are numbers.
        speed: 10 replays ten times as fast.

    Raises:
        LoadError: there is no such file or column, or a timestamp is missing or none.
    """
    import numpy as np

    check_positive("replay", "speed", speed, "a factor above 0")
    if unit not in UNITS:
        raise LoadError(
            "unknown unit", where="replay(unit=...)", expected=" or ".join(UNITS), got=repr(unit)
        )
    times = _seconds(_series(source, column), unit) / speed
    last = float(times.max(initial=0.0))
    # The last request is followed by a gap as the others are, so that the mean rate is kept.
    gap = last / (len(times) - 1) if last else 1.0
    return RecordedTimes.of(times.astype(np.float64), last + gap)


def _series(source: Any, column: str | None) -> pd.Series[Any]:
    import pandas as pd

    table = _read(Path(source)) if isinstance(source, (str, PathLike)) else source
    if isinstance(table, pd.DataFrame):
        return table[_column(table, column)]
    try:
        series = pd.Series(table)
    except (TypeError, ValueError) as error:
        raise _unusable(type(source).__name__) from error
    return series


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise LoadError("there is no such file", where=WHERE, got=str(path))
    if path.suffix == ".csv":
        return pd.read_csv(path)
    if path.suffix == ".parquet":
        return parquet.read(path)
    raise LoadError(
        "this kind of file cannot be replayed",
        where=WHERE,
        expected="a .csv or .parquet file",
        got=path.name,
        fix="read it yourself, and pass the DataFrame or its column",
    )


def _column(table: pd.DataFrame, column: str | None) -> str:
    names = [str(name) for name in table.columns]
    if column is None and len(names) == 1:
        return names[0]
    if column not in names:
        raise LoadError(
            "which column has the timestamps?" if column is None else "there is no such column",
            where="replay(..., column=...)",
            expected=" or ".join(map(repr, names)),
            got=repr(column),
        )
    return column


def _seconds(stamps: pd.Series[Any], unit: str) -> NDArray[np.float64]:
    """Seconds from the first of them."""
    import numpy as np
    import pandas as pd

    stamps = stamps.reset_index(drop=True)
    types = pd.api.types
    if types.is_object_dtype(stamps) or types.is_string_dtype(stamps):
        stamps = _parsed(stamps)
    numeric = types.is_numeric_dtype(stamps) and not types.is_bool_dtype(stamps)
    is_time = types.is_datetime64_any_dtype(stamps) or types.is_timedelta64_dtype(stamps)
    if len(stamps) and not (numeric or is_time):
        raise _unusable(str(stamps.dtype))
    # The first is subtracted before anything is rounded to a double: nanoseconds since 1970 are
    # larger than its 53 bits.
    times: NDArray[np.float64]
    if is_time:
        times = (stamps - stamps.min()).dt.total_seconds().to_numpy(np.float64)
    else:
        times = (stamps - stamps.min()).to_numpy(np.float64, na_value=np.nan) * UNITS[unit]
    if missing := int((~np.isfinite(times)).sum()):
        raise LoadError(
            f"{missing:,} of {len(times):,} timestamps are missing or infinite",
            where=WHERE,
            fix="drop them: frame.dropna(subset=[...])",
        )
    return times


def _parsed(stamps: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    try:
        return pd.to_datetime(stamps, utc=True, format="ISO8601")
    except (TypeError, ValueError) as error:
        raise _unusable(f"{error}".splitlines()[0]) from None


def _unusable(got: str) -> LoadError:
    return LoadError(
        "these are not timestamps",
        where=WHERE,
        expected="numbers, datetimes, or texts like '2026-03-01T09:30:00'",
        got=got,
    )
