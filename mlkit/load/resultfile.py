"""Results of load tests as files: ``.npz``, numpy's format, without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError
from mlkit.load.arrivals import arrivals_from_dict
from mlkit.load.records import ClientCost, FailureSample

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read", "write"]

FORMAT = 1


def write(path: Path, fields: Mapping[str, Any], *, compress: bool) -> None:
    """Write the fields of a `LoadResult`: arrays as they are, the others as JSON."""
    import numpy as np

    head = dict(fields)
    columns, item_times = head.pop("columns"), head.pop("item_times")
    head |= {
        "format": FORMAT,
        "arrivals": head["arrivals"].to_dict(),
        "client": head["client"]._asdict(),
    }
    save = np.savez_compressed if compress else np.savez
    with path.open("wb") as file:
        save(
            file,
            allow_pickle=False,
            head=np.array(json.dumps(head)),
            item_times=item_times,
            **columns,
        )


def read(path: str | Path) -> dict[str, Any]:
    """Return the fields of a `LoadResult` that were written.

    Raises:
        LoadError: the file does not contain any.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        head: dict[str, Any] = json.loads(str(columns.pop("head")))
        del head["format"]
    except (KeyError, ValueError) as error:
        raise LoadError("this file does not contain a load test", where=str(path)) from error
    if "item_times" in columns:  # older files have none
        head["item_times"] = columns.pop("item_times")
    return head | {
        "arrivals": arrivals_from_dict(head["arrivals"]),
        "client": ClientCost(**head["client"]),
        "failures": tuple(FailureSample(*sample) for sample in head["failures"]),
        "columns": columns,
    }
