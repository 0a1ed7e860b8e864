"""DataFrames in Parquet files, with the extra ``frames``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.errors import require_extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read", "write"]


def read(path: Path) -> pd.DataFrame:
    """Read a file.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    import pandas as pd

    require_extra("frames", "pyarrow")
    return pd.read_parquet(path)


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a file, without the index.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    require_extra("frames", "pyarrow")
    frame.to_parquet(path, index=False)
