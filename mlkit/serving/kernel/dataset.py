"""`map_dataset`: a pipeline on data that is larger than memory, by Ray Data."""

from __future__ import annotations

import json
import math
import posixpath
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any

from mlkit.define.graph import Graph
from mlkit.define.shipping import fingerprint
from mlkit.errors import InputError, MlkitError, did_you_mean, entry_point, require_extra
from mlkit.execute.cores import cores
from mlkit.pipelines import Pipeline, require_pipeline
from mlkit.plan import plan
from mlkit.serving.bundle import Origin, code_of, pack_whole
from mlkit.serving.control import folders
from mlkit.serving.control.dataset import BUNDLE, JOB, DatasetJob, RowsDone, filesystem_of
from mlkit.serving.kernel.process import process_environment
from mlkit.serving.replica.blocks import ERROR, columns_of

__all__ = ["MappedDataset", "map_dataset"]

DETAILS = "mapped.json"
"""File in the folder of the results that says what they are results of."""

FILE_COLUMNS = ("path", "bytes")
"""Columns of a folder of files, by Ray Data."""

CPUS = 2.0
"""Of a worker: threads of one process use about two cores, because of the interpreter's lock."""

STOP_S = 60.0


@dataclass(frozen=True)
class MappedDataset:
    """Results of a pipeline on a dataset, in Parquet files.

    Attributes:
        results: path or URI of the folder with these files.
        rows: number of rows.
        failed: number of those that failed, which have an ``error``.
    """

    results: str
    rows: int
    failed: int

    def __repr__(self) -> str:
        return f"{self.rows:,} rows in {self.results}, {self.failed:,} of them failed"


@entry_point
def map_dataset(
    pipeline: Pipeline[..., Any],
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    id: str | None = None,
    address: str = "local",
    batch_size: int = 512,
    workers: int | None = None,
    num_cpus: float | None = None,
    progress: bool = True,
) -> MappedDataset:
    """Run a pipeline on data that is larger than memory, and write results while it runs.

    ::

        map_dataset(tag, "photos", "build/tags")
        map_dataset(tag, "s3://shop/catalogue", "s3://shop/tags", id="sku", address="auto")

    Ray Data reads the rows, and has them run by processes that each build the resources once. A row
    of the results has the id of its row, a column for each field of the pipeline's result, and
    ``error``, which is null unless the row failed. If the call is interrupted or its process dies,
    the same call continues: rows that are done are not run again, nor are those that failed.

    Args:
        pipeline: the pipeline. All of its steps run in each worker.
        source: Parquet files, or a folder of them, with columns named like the parameters; or any
            other folder of files, such as pictures, each of which is a row for a pipeline with one
            required parameter.
        output: folder for the results; ``results`` in it has the Parquet files.
        id: column of a Parquet file that identifies a row; the values differ. Files are identified
            by their ``path``.
        address: of a Ray cluster, which then has access to source and output; by default, Ray is
            started on this machine for the call.
        batch_size: rows that a worker takes at a time, and that a file of results has.
        workers: processes at most; by default, one per two cores of this machine, or as many as a
            cluster has room for.
        num_cpus: CPUs that Ray reserves for a worker, and threads of its libraries; two by default.
        progress: whether to show a progress bar.

    Raises:
        InputError: there is no such source, its columns do not match the parameters, or the output
            has results of something else.
        DeployError: the pipeline has problems.
        MlkitError: it failed as a whole, such as for lack of memory.
    """
    require_extra("frames", "pyarrow")
    require_pipeline(pipeline, "map_dataset(...)")
    for name, value in {"batch_size": batch_size, "workers": workers, "num_cpus": num_cpus}.items():
        if value is not None and not value > 0:
            raise InputError("too few", where=name, expected="a number above 0", got=repr(value))
    graph = pipeline.graph
    rows = _survey(_uri(source), id, graph)
    packed = pack_whole(pipeline)
    cpus = num_cpus or min(CPUS, cores())
    if workers is None and address == "local":
        workers = max(1, int(cores() // cpus))
    job = DatasetJob(
        address=address,
        source=rows.source,
        parquet=rows.parquet,
        output=_uri(output),
        id=rows.id,
        columns=rows.columns,
        origin=Origin.here([packed]),
        batch_size=batch_size,
        workers=workers,
        num_cpus=cpus,
        num_gpus=math.ceil(sum(stage.num_gpus for stage in plan(pipeline).stages)),
    )
    _claim(job, graph)
    with _bar(graph.name, rows.count, progress) as show:
        done = RowsDone(job.done)()
        show(done)
        if done < rows.count:
            _run(job, packed.data, show)
    return _outcome(job)


def _uri(path: str | PathLike[str]) -> str:
    text = fspath(path)
    return text.rstrip("/") if "://" in text else str(Path(text).absolute())


@dataclass(frozen=True)
class _Rows:
    source: str
    parquet: bool
    id: str
    columns: dict[str, str]
    count: int


def _survey(source: str, id: str | None, graph: Graph) -> _Rows:
    """Find out what the rows are, before anything is started.

    Raises:
        InputError: there are none, or they do not match the parameters.
    """
    import pyarrow as pa
    import pyarrow.dataset
    from pyarrow.fs import FileSelector, FileType

    try:
        filesystem, path = filesystem_of(source)
        info = filesystem.get_file_info(path)
        entries = [info] if info.type == FileType.File else []
        if info.type == FileType.Directory:
            entries = filesystem.get_file_info(FileSelector(path, recursive=True))
        files = [f.path for f in entries if f.type == FileType.File and f.base_name[0] not in "._"]
        parquet = bool(files) and all(file.endswith(".parquet") for file in files)
        if parquet:
            table = pyarrow.dataset.dataset(files, filesystem=filesystem, format="parquet")
            names, count = table.schema.names, table.count_rows()
        else:
            names, count = list(FILE_COLUMNS), len(files)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"the source cannot be read: {error}", where=source) from None
    if not files:
        raise InputError(
            "there are no files",
            where=source,
            expected="Parquet files, or a folder of files",
        )
    columns = _columns(graph, names) if parquet else {_only_parameter(graph, source): "bytes"}
    key = _identifier(id, names, source) if parquet else "path"
    results = [key, ERROR, *columns_of(graph)]
    duplicates = sorted({name for name in results if results.count(name) > 1})
    if duplicates:
        raise InputError(
            f"two columns of the results would be called {', '.join(duplicates)}",
            where=f"pipeline {graph.name!r}",
            expected=f"fields of its result that are neither {key!r} nor {ERROR!r}",
            fix="rename the field" + (", or the column of the id" if parquet else ""),
        )
    return _Rows(source, parquet, key, columns, count)


def _columns(graph: Graph, names: list[str]) -> dict[str, str]:
    missing = [p.name for p in graph.parameters if p.required and p.name not in names]
    if missing:
        raise InputError(
            f"the rows have no column {', '.join(missing)}",
            where=f"pipeline {graph.name!r}",
            expected=f"columns named like the parameters: "
            f"{', '.join(p.name for p in graph.parameters)}",
            got=", ".join(names),
        )
    return {p.name: p.name for p in graph.parameters if p.name in names}


def _only_parameter(graph: Graph, source: str) -> str:
    required = [p.name for p in graph.parameters if p.required]
    if len(required) != 1:
        raise InputError(
            "a file is one argument, and the pipeline does not have one required parameter",
            where=f"pipeline {graph.name!r}",
            expected="a single required parameter, or Parquet files with a column for each",
            got=f"{len(required)} required parameters, and no Parquet files in {source}",
        )
    return required[0]


def _identifier(id: str | None, names: list[str], source: str) -> str:
    if id in names:
        return str(id)
    raise InputError(
        "no column identifies the rows" if id is None else f"there is no column {id!r}",
        where=source,
        expected="id= the name of a column whose values differ",
        got=", ".join(names),
        fix=None if id is None else did_you_mean(id, names),
    )


def _claim(job: DatasetJob, graph: Graph) -> None:
    """Say in the output what it is the output of.

    Raises:
        InputError: it is that of something else.
    """
    from pyarrow.fs import FileSelector, FileType

    code = fingerprint(sorted(code_of(graph).items()))
    details = {"pipeline": graph.name, "source": job.source, "id": job.id, "code": code}
    filesystem, folder = filesystem_of(job.output)
    file = posixpath.join(folder, DETAILS)
    if filesystem.get_file_info(file).type == FileType.File:
        with filesystem.open_input_stream(file) as stream:
            before = json.loads(stream.read())
        changed = [name for name, value in details.items() if before.get(name) != value]
        if changed:
            raise InputError(
                f"the folder has results of another {' and '.join(changed)}",
                where=job.output,
                fix="write to another folder, or delete this one",
            )
        return
    if filesystem.get_file_info(FileSelector(folder, allow_not_found=True)):
        raise InputError(
            "the folder has other contents", where=job.output, fix="write to another folder"
        )
    filesystem.create_dir(folder, recursive=True)
    with filesystem.open_output_stream(file) as stream:
        stream.write(json.dumps(details, indent=2).encode() + b"\n")


def _run(job: DatasetJob, bundle: bytes, show: Callable[[int], object]) -> None:
    """Run the process that does it, and wait for it; it ends with this one.

    Raises:
        MlkitError: it failed.
    """
    folder = folders.create()
    # Not in the folder, which ends with the process.
    with tempfile.TemporaryFile() as log, ExitStack() as stack:
        stack.callback(folders.remove, folder)
        (folder / JOB).write_text(job.model_dump_json())
        (folder / BUNDLE).write_bytes(bundle)
        with _started(job, folder, log) as process:
            try:
                cause = _watched(process, show)
            except BaseException:
                _interrupt(process)
                raise
        if process.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise MlkitError(
                "the rows were not mapped to the end",
                where=f"dataset {job.source}",
                got=cause or (lines[-1] if lines else f"exit status {process.returncode}"),
                fix="call it again when the cause is gone: rows that are done are kept",
            )


def _started(job: DatasetJob, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = process_environment(folder, job.address)
    del environment["RAY_preload_python_modules"]  # what replicas need
    return subprocess.Popen(
        [sys.executable, "-m", "mlkit.serving.port.dataset", str(folder)],
        env=environment,
        cwd=folder,
        start_new_session=True,  # an interrupt of the kernel's is passed on
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )


def _watched(process: subprocess.Popen[bytes], show: Callable[[int], object]) -> str | None:
    """Follow the messages of the process; return why it failed, if it said so."""
    assert process.stdout is not None
    cause = None
    for line in process.stdout:
        message = json.loads(line)
        if "done" in message:
            show(message["done"])
        cause = message.get("error", cause)
    return cause


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Have it stop Ray."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _bar(name: str, total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Progress bar: yield a function that takes the number of rows that are done."""
    if not shown:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=name, unit=" rows") as bar:
        yield lambda done: bar.update(done - bar.n)


def _outcome(job: DatasetJob) -> MappedDataset:
    import pyarrow.compute as pc
    import pyarrow.dataset
    from pyarrow.fs import FileSelector

    filesystem, path = filesystem_of(job.results)
    if not filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
        return MappedDataset(job.results, 0, 0)
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
    failed = table.count_rows(filter=pc.field(ERROR).is_valid())
    return MappedDataset(job.results, table.count_rows(), failed)
