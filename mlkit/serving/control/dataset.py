"""What a kernel asks of the process that maps a dataset, and how far that is."""

from __future__ import annotations

import posixpath
from typing import Any

from mlkit.errors import require_extra
from mlkit.serving.bundle import Origin
from mlkit.serving.control.records import Frozen

__all__ = ["BUNDLE", "JOB", "DatasetJob", "RowsDone", "filesystem_of"]

JOB = "job.json"
BUNDLE = "pipeline.bundle"
"""Files in the folder of the process."""


class DatasetJob(Frozen):
    """A pipeline to be run on the rows of a dataset.

    Attributes:
        address: of a Ray cluster; "local" to start Ray.
        source: path or URI of the rows.
        parquet: whether these are Parquet files; otherwise each file is a row.
        output: path or URI of the folder of the results.
        id: column that identifies a row.
        columns: column of each parameter.
        origin: where the pipeline's code comes from.
        batch_size: rows that a worker takes at a time, and that a file of results has.
        workers: processes at most; None for as many as the cluster has room for.
        num_cpus: of each process.
        num_gpus: of each process.
    """

    address: str
    source: str
    parquet: bool
    output: str
    id: str
    columns: dict[str, str]
    origin: Origin
    batch_size: int
    workers: int | None
    num_cpus: float
    num_gpus: float

    @property
    def results(self) -> str:
        """Folder of the results."""
        return posixpath.join(self.output, "results")

    @property
    def done(self) -> str:
        """Folder that says which rows are done, in files of Ray Data's.

        Not in the folder of the results, in which Ray Data deletes what was not written whole.
        """
        return posixpath.join(self.output, "done")


def filesystem_of(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI or an absolute path, and the path in it.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    require_extra("frames", "pyarrow")
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(uri)
    return filesystem, path


class RowsDone:
    """Counts the rows that are done, from the files that record it.

    Args:
        folder: URI or absolute path of these files.
    """

    def __init__(self, folder: str) -> None:
        self._filesystem, self._path = filesystem_of(folder)
        self._files: dict[str, int] = {}

    def __call__(self) -> int:
        """Return their number; only files that are new since the last call are read."""
        from pyarrow import parquet
        from pyarrow.fs import FileSelector

        for file in self._filesystem.get_file_info(FileSelector(self._path, allow_not_found=True)):
            # One that is pending belongs to rows that are being written.
            if file.path not in self._files and not file.path.endswith(".pending.parquet"):
                metadata = parquet.read_metadata(file.path, filesystem=self._filesystem)
                self._files[file.path] = metadata.num_rows
        return sum(self._files.values())
