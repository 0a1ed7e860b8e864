"""Models by name: versions and aliases in a folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit.errors import DefinitionError, InputError, MlkitError, did_you_mean, entry_point
from mlkit.models.artefact import (
    MANIFEST,
    Artefact,
    Builder,
    ModelManifest,
    open_artefact,
    size_on_disk,
)
from mlkit.models.model import Array, PrecisionUsed
from mlkit.models.saving import write_artefact
from mlkit.models.whole import Preprocess

if TYPE_CHECKING:
    import openvino
    import pandas as pd
    import torch

__all__ = [
    "Place",
    "adopt",
    "list_models",
    "load_model",
    "locate",
    "resolve",
    "save_model",
    "set_alias",
    "size_of",
    "store_dir",
]

_WORD = r"[A-Za-z0-9][\w.-]*"
_ID = re.compile(rf"(?P<name>{_WORD})(?::(?P<version>{_WORD})|@(?P<alias>{_WORD}))?")


class Place(NamedTuple):
    """Where a version of a model is; its id is ``name:version``."""

    id: str
    folder: Path


def store_dir(store: str | PathLike[str] | None = None) -> Path:
    """Return the folder of models, which may not exist yet.

    It is the argument, else ``MLKIT_MODELS_DIR``, else in the user's data directory.
    """
    configured = store or os.environ.get("MLKIT_MODELS_DIR")
    if configured:
        return Path(configured).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("mlkit", appauthor=False) / "models"


@entry_point
def save_model(
    model: torch.nn.Module | openvino.Model | str | PathLike[str],
    name: str,
    version: str | None = None,
    *,
    example: Array | tuple[Array, ...],
    labels: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    preprocess: Preprocess | None = None,
    builder: Builder | None = None,
    kwargs: Mapping[str, Any] | None = None,
    precision: PrecisionUsed = "fp32",
    batch_sizes: Sequence[int] = (),
    dynamic_axes: Sequence[int] = (0,),
    store: str | PathLike[str] | None = None,
) -> Artefact:
    """Save a model as a version of a name, atomically, and return it as it loads.

    Before it is there for others, it is loaded again, and must compute the same for the example.
    Saving what is the latest version already returns that.

    Args:
        model: a torch module, an OpenVINO model, or the path of an ``.onnx`` or ``.xml`` file.
        name: letters, digits, ``_``, ``.`` and ``-``.
        version: ``v1``, ``v2`` and so on by default.
        example: input to run it with: an array, or a tuple of arrays, before the preprocessing.
        labels: names of the classes, in the order of the output's last axis.
        metrics: numbers by name, such as its accuracy.
        provenance: plain data: where it comes from. Versions of the libraries are added.
        preprocess: preprocessing of a torch module's first input.
        builder: returns the torch module, without weights; its class by default.
        kwargs: arguments of the builder, as plain data.
        precision: of the arithmetic when it is loaded.
        batch_sizes: see `compile_model`.
        dynamic_axes: axes whose length may differ from the example's.
        store: folder of models; see `store_dir`.

    Raises:
        DefinitionError: an argument is invalid, the version exists, or the module cannot be built.
        MlkitError: the model returns NaN, or computes something else after it was loaded again.
    """

    def write(fresh: Path) -> ModelManifest:
        return write_artefact(
            Path(model) if isinstance(model, (str, PathLike)) else model,
            fresh,
            id=f"{name}:{version}" if version else name,
            example=example,
            builder=builder,
            kwargs=kwargs or {},
            preprocess=preprocess,
            precision=precision,
            batch_sizes=batch_sizes,
            dynamic_axes=dynamic_axes,
            labels=labels,
            metrics=metrics or {},
            provenance=provenance or {},
        )

    place, manifest = _added(write, name, version, store)
    if builder is None and manifest.builder is None and manifest.format == "safetensors":
        builder = type(model)  # type: ignore[assignment]
    return open_artefact(place.id, place.folder, builder)


def adopt(
    source: Path,
    name: str,
    version: str | None = None,
    *,
    builder: Builder | None = None,
    store: str | PathLike[str] | None = None,
) -> Artefact:
    """Copy the folder of a model into the store; files that its manifest does not have stay.

    Raises:
        DefinitionError: an argument is invalid, or the version exists.
        MlkitError: a file is missing or was changed, or the model cannot be loaded.
    """

    def copy(fresh: Path) -> ModelManifest:
        manifest = open_artefact(name, source, builder).manifest
        for file in (MANIFEST, *manifest.files):
            shutil.copyfile(source / file, fresh / file)
        return manifest

    place, _ = _added(copy, name, version, store)
    return open_artefact(place.id, place.folder, builder)


def _added(
    write: Callable[[Path], ModelManifest],
    name: str,
    version: str | None,
    store: str | PathLike[str] | None,
) -> tuple[Place, ModelManifest]:
    """Write a version to an empty folder, and publish it."""
    for word in filter(None, (name, version)):
        if not re.fullmatch(_WORD, word):
            raise DefinitionError(
                "invalid name or version of a model",
                where="models.save",
                expected="letters, digits, '_', '.' and '-'",
                got=repr(word),
            )
    folder = store_dir(store) / name
    fresh = folder / f".{os.getpid()}-{os.urandom(4).hex()}"
    fresh.mkdir(parents=True)
    try:
        manifest = write(fresh)
        version = _keep(fresh, folder, version, manifest)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):  # it has versions
            folder.rmdir()
    return Place(f"{name}:{version}", folder / version), manifest


def _keep(fresh: Path, folder: Path, version: str | None, manifest: ModelManifest) -> str:
    """Rename a folder to that of its version, which it returns."""
    while True:
        latest = max(_versions(folder), key=_natural, default=None)
        if version is None and latest and _key(folder / latest) == manifest.key:
            return latest
        numbers = [int(v[1:]) for v in _versions(folder) if re.fullmatch(r"v\d+", v)]
        chosen = version or f"v{max(numbers, default=0) + 1}"
        try:
            fresh.rename(folder / chosen)
            return chosen
        except OSError:
            if not (folder / chosen).exists():
                raise
            if version is not None:  # else another process was first
                raise DefinitionError(
                    "this version exists already",
                    where=f"{folder.name}:{version}",
                    fix="omit the version for the next number; versions do not change",
                ) from None


def _key(folder: Path) -> str | None:
    try:
        return ModelManifest.read(folder).key
    except MlkitError:
        return None


@entry_point
def load_model(
    id: str, *, builder: Builder | None = None, store: str | PathLike[str] | None = None
) -> Artefact:
    """Verify and load a model.

    Weights of torch modules are mapped into memory; see `load_weights`. OpenVINO models are
    compiled once on each machine.

    Args:
        id: ``garment:v2`` for a version, ``garment@production`` for an alias, or ``garment`` for
            the highest version.
        builder: returns the torch module, without weights, if its class cannot be imported.
        store: folder of models; see `store_dir`.

    Raises:
        InputError: there is no such model.
        MlkitError: a file is missing or was changed.
        DefinitionError: the builder is missing, or returns another module.
    """
    place = locate(id, store)
    return open_artefact(place.id, place.folder, builder)


def resolve(id: str, store: str | PathLike[str] | None = None) -> str:
    """Return ``name:version`` of a model that is named by an alias, or by its name alone.

    Raises:
        InputError: there is no such model.
    """
    return locate(id, store).id


def size_of(id: str, store: str | PathLike[str] | None = None) -> int:
    """Size of a model's files in bytes.

    Raises:
        InputError: there is no such model.
        MlkitError: a file is missing, or the manifest was changed.
    """
    folder = locate(id, store).folder
    try:
        return size_on_disk(folder, ModelManifest.read(folder))
    except OSError as error:
        raise MlkitError(f"a file is missing: {error}", where=id) from None


@entry_point
def set_alias(id: str, version: str, *, store: str | PathLike[str] | None = None) -> None:
    """Point an alias at a version: ``set_alias("garment@production", "v2")``; atomic.

    Raises:
        DefinitionError: the id is not ``name@alias``.
        InputError: there is no such version.
    """
    parts = _ID.fullmatch(id)
    if parts is None or parts["alias"] is None:
        raise DefinitionError(
            "not an alias", where="models.set_alias", expected="'name@alias'", got=repr(id)
        )
    folder = locate(f"{parts['name']}:{version}", store).folder.parent
    partial = folder / f".{os.getpid()}-{os.urandom(4).hex()}"
    partial.write_text(version)
    partial.replace(folder / f"@{parts['alias']}")


@entry_point
def list_models(store: str | PathLike[str] | None = None) -> pd.DataFrame:
    """Return a row for each version: its aliases, format, size in MB, inputs and metrics.

    Contents of files are not verified. A version that cannot be read has a ``problem``.
    """
    import pandas as pd

    rows = []
    root = store_dir(store)
    for folder in sorted(root.glob("*/")):
        aliases = {file.name[1:]: file.read_text() for file in sorted(folder.glob("@*"))}
        for version in sorted(_versions(folder), key=_natural):
            names = ", ".join(alias for alias, target in aliases.items() if target == version)
            row = {"id": f"{folder.name}:{version}", "aliases": names}
            rows.append(row | _described(folder / version))
    return pd.DataFrame(rows, columns=None if rows else ["id", "aliases"]).set_index("id")


def _described(folder: Path) -> dict[str, Any]:
    try:
        manifest = ModelManifest.read(folder)
        size = size_on_disk(folder, manifest)
    except (MlkitError, OSError) as error:
        return {"problem": str(error)}
    return {
        "format": manifest.format,
        "mb": size / 1e6,
        "inputs": ", ".join(map(str, manifest.inputs)),
        "labels": len(manifest.labels),
        "saved_at": manifest.saved_at,
        **manifest.metrics,
    }


def locate(id: str, store: str | PathLike[str] | None) -> Place:
    """Return the version that an id names.

    Raises:
        InputError: there is no such model.
    """
    parts = _ID.fullmatch(id)
    if parts is None:
        raise InputError(
            "invalid id of a model",
            where="models",
            expected="'name', 'name:version' or 'name@alias'",
            got=repr(id[:80]),
        )
    root = store_dir(store)
    folder = root / parts["name"]
    if not folder.is_dir():
        raise _unknown(id, "model", [folder.name for folder in root.glob("*/")])
    version = parts["version"]
    if parts["alias"]:
        try:
            version = (folder / f"@{parts['alias']}").read_text()
        except OSError:
            aliases = [file.name[1:] for file in folder.glob("@*")]
            raise _unknown(id, "alias", aliases) from None
    version = version or max(_versions(folder), key=_natural, default="")
    if version not in _versions(folder):
        raise _unknown(id, "version", list(_versions(folder)))
    return Place(f"{parts['name']}:{version}", folder / version)


def _unknown(id: str, kind: str, names: Sequence[str]) -> InputError:
    known = ", ".join(sorted(names, key=_natural)[:8]) or "none"
    return InputError(
        f"there is no such {kind}: {id}",
        where="models",
        expected=f"one of {known}" if names else "a saved model",
        fix=did_you_mean(re.split("[:@]", id)[-1], names) or "models.list() has all of them",
    )


def _versions(folder: Path) -> Iterator[str]:
    """Versions of a model, in no order."""
    return (f.name for f in folder.iterdir() if re.fullmatch(_WORD, f.name) and f.is_dir())


def _natural(word: str) -> list[tuple[str, int]]:
    """Sort key in which v10 comes after v9."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", word)]
