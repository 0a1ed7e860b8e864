"""Values beside an exported module: files in open formats, with digests, and never a pickle.

============  ========================================================================
``npy``       arrays of numpy
``parquet``   DataFrames, where Parquet keeps them as they are; else ``exact``
``weights``   modules of torch: safetensors, for a module that the code builds
``sklearn``   estimators of scikit-learn: parameters and state, arrays in an ``npz``
``heads``     `mlkit.models.HeadBank`: an ``npz`` of weights and biases
``exact``     all other values with an exact form; see `mlkit.define.exact`
============  ========================================================================

A file is read only if its SHA-256 is the one in ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlkit.define.equality import same
from mlkit.define.exact import Exact
from mlkit.errors import InputError, MlkitError, did_you_mean
from mlkit.export import estimators

if TYPE_CHECKING:
    import torch

__all__ = ["MANIFEST", "Artefacts", "Unsaved", "format_of", "write_values"]

MANIFEST = "manifest.json"

Module = TypeVar("Module", bound="torch.nn.Module")


class Unsaved(MlkitError):
    """A value cannot be written to a file."""


class Artefacts:
    """Reads the values that were exported with a module.

    ::

        artefacts = Artefacts(Path(__file__).parent / "artefacts")

        means = artefacts["means"]
        net = artefacts.weights("net", lambda: Net(width=32))

    Args:
        folder: the folder with the files.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self._entries = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MlkitError(f"no artefacts: {error}", where=str(folder)) from None

    def __getitem__(self, name: str) -> Any:
        """Return a value.

        Raises:
            KeyError: there is none of this name.
            MlkitError: its file is missing or was changed.
        """
        format_, data, _ = self._read(name)
        return _READERS[format_](data)

    def weights(self, name: str, build: Callable[[], Module]) -> Module:
        """Return a module of torch with its weights; see `mlkit.models.load_weights`.

        Args:
            name: its name.
            build: returns the module with any weights.
        """
        from mlkit.models.weights import load_weights

        _, _, file = self._read(name)
        return load_weights(build, file)

    def _read(self, name: str) -> tuple[str, bytes, Path]:
        entry = self._entries.get(name)
        if entry is None:
            raise KeyError(did_you_mean(name, self._entries) or name)
        file = self.folder / entry["file"]
        try:
            data = file.read_bytes()
        except OSError as error:
            raise MlkitError(f"an artefact cannot be read: {error}", where=str(file)) from None
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise MlkitError(
                "an artefact was changed after the export",
                where=str(file),
                expected=f"SHA-256 {entry['sha256'][:12]}…",
                fix="export the pipeline again",
            )
        return entry["format"], data, file

    def __repr__(self) -> str:
        return f"<artefacts {', '.join(self._entries)}>"


def format_of(value: Any) -> str | None:
    """Return the format for a value; None if there is none."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject:
        return "npy"
    if package == "pandas" and hasattr(value, "shape"):
        return "parquet" if kind.__name__ == "DataFrame" else "exact"
    if estimators.is_estimator(value):
        return "sklearn"
    if _is_module(value):
        return "weights"
    if kind.__module__ == "mlkit.models.heads":
        return "heads"
    try:
        Exact().encode(value)
    except Exception:  # of the value's own code, too: it has no exact form
        return None
    return "exact"


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def write_values(
    folder: Path, values: Mapping[str, Any], modules: Mapping[str, str]
) -> dict[str, Unsaved]:
    """Write values, each to a file of its own, and the manifest.

    Args:
        folder: where to.
        values: the values by name.
        modules: names of modules in the exported code, by their names in this process.

    Returns:
        why a value was not written, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict[str, str]] = {}
    problems: dict[str, Unsaved] = {}
    for name, value in values.items():
        try:
            format_, suffix, data = _written(value, modules)
        except Unsaved as error:
            problems[name] = error
            continue
        file = f"{name}.{suffix}"
        (folder / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries[name] = {"file": file, "format": format_, "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return problems


def _written(value: Any, modules: Mapping[str, str]) -> tuple[str, str, bytes]:
    """Return format, suffix and contents of the file of a value."""
    format_ = format_of(value)
    if format_ == "parquet":
        data = _parquet(value)
        if data is not None:
            return "parquet", "parquet", data
        format_ = "exact"
    if format_ == "exact":
        try:
            return "exact", "exact", Exact(modules=modules).encode(value)
        except InputError as error:
            raise Unsaved(error.what, fix=error.fix) from error
    if format_ == "npy":
        return "npy", "npy", _npy(value)
    if format_ == "weights":
        return "weights", "safetensors", _safetensors(value)
    if format_ == "heads":
        return "heads", "npz", _heads(value)
    if format_ == "sklearn":
        try:
            return "sklearn", "npz", estimators.dumps(value)
        except estimators.NoState as error:
            raise Unsaved(
                str(error),
                fix="save it in its library's own format, and read that in a loader: "
                'resource(load, files=["model.txt"])',
            ) from error
    raise Unsaved(f"values of type {type(value).__name__} have no form but a pickle")


def _npy(value: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _read_npy(data: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(data), allow_pickle=False)


def _parquet(value: Any) -> bytes | None:
    """Return a DataFrame as Parquet; None if that would change it."""
    buffer = io.BytesIO()
    try:
        value.to_parquet(buffer)
        kept = same(_read_parquet(buffer.getvalue()), value)
    except Exception:  # no pyarrow, or a column that Arrow has no type for
        return None
    return buffer.getvalue() if kept else None


def _read_parquet(data: bytes) -> Any:
    import pandas as pd

    return pd.read_parquet(io.BytesIO(data))


def _safetensors(module: Any) -> bytes:
    import tempfile

    from mlkit.models.weights import save_weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_weights(module, file)
        return file.read_bytes()


def _heads(bank: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(bank.ids), weight=bank.weight, bias=bank.bias)
    return buffer.getvalue()


def _read_heads(data: bytes) -> Any:
    import numpy as np

    from mlkit.models.heads import HeadBank

    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        rows = zip(arrays["weight"], arrays["bias"], strict=True)
        return HeadBank(dict(zip(arrays["ids"].tolist(), rows, strict=True)))


_READERS: Mapping[str, Callable[[bytes], Any]] = {
    "exact": lambda data: Exact().decode(data),
    "heads": _read_heads,
    "npy": _read_npy,
    "parquet": _read_parquet,
    "sklearn": estimators.loads,
}
