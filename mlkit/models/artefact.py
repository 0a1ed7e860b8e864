"""Models on disk: one folder each, with all that is needed to run it, and never a pickle.

A folder has the weights as safetensors, OpenVINO IR or ONNX, and ``manifest.json``: the signature,
preprocessing, labels, metrics and provenance, and the SHA-256 of every file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, cast

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    ValidationError,
)

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import cache
from mlkit.models.model import Array, ArraySpec, CompiledModel, PrecisionUsed, Structure
from mlkit.models.target import choose
from mlkit.models.weights import load_weights
from mlkit.models.whole import Preprocess, whole

if TYPE_CHECKING:
    import torch

__all__ = [
    "FILES",
    "MANIFEST",
    "Artefact",
    "Builder",
    "ModelManifest",
    "compiled",
    "file_digest",
    "importable_name",
    "open_artefact",
    "size_on_disk",
]

MANIFEST = "manifest.json"
FILES = {"safetensors": "model.safetensors", "openvino": "model.xml", "onnx": "model.onnx"}

Builder: TypeAlias = "Callable[..., torch.nn.Module]"
FileName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]


class ModelManifest(BaseModel):
    """What a folder says of its model.

    Attributes:
        manifest: version of this format.
        inputs: dtypes and shapes of the inputs, before preprocessing.
        outputs: dtypes and shapes of the flat results.
        structure: structure of the results.
        builder: ``module:name`` of what returns the module; None if it cannot be imported.
        kwargs: arguments of the builder.
        batch_sizes: see `mlkit.models.compile_model`.
        labels: names of the classes, in the order of the last axis of the output.
        files: SHA-256 of each file.
        key: digest of everything here except `saved_at`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Literal[1] = 1
    format: Literal["safetensors", "openvino", "onnx"]
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    structure: Structure
    builder: str | None = None
    kwargs: dict[str, JsonValue]
    preprocess: Preprocess | None
    precision: PrecisionUsed
    batch_sizes: tuple[int, ...]
    labels: tuple[str, ...]
    metrics: dict[str, FiniteFloat]
    provenance: dict[str, JsonValue]
    files: dict[FileName, str]
    saved_at: AwareDatetime
    key: str = ""

    def digest(self) -> str:
        """Compute the `key`."""
        return cache.content_key([self.model_dump_json(exclude={"key", "saved_at"})])

    @classmethod
    def read(cls, folder: Path) -> ModelManifest:
        """Read the manifest of a folder.

        Raises:
            MlkitError: it is missing, not a manifest, or was changed after it was written.
        """
        try:
            manifest = cls.model_validate_json((folder / MANIFEST).read_bytes())
        except OSError as error:
            raise MlkitError(f"no artefact: {error.strerror}", where=str(folder)) from None
        except ValidationError as error:
            problem = error.errors()[0]
            raise MlkitError(
                f"not a manifest: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                where=str(folder / MANIFEST),
            ) from None
        if manifest.digest() != manifest.key:
            raise _changed(folder / MANIFEST, manifest.key, manifest.digest())
        return manifest


class Artefact(CompiledModel):
    """A model from a store. Call it with arrays; see `CompiledModel`.

    It can be sent to another process, as in ``resource(value=models.load("garment:v2"))``: there it
    is opened again, and refused unless it is the same.

    Attributes:
        id: such as ``garment:v2``.
        folder: where its files are.
        manifest: what is known about it.
        module: the torch module, without preprocessing; None if OpenVINO runs it.
    """

    def __init__(
        self,
        id: str,
        folder: Path,
        manifest: ModelManifest,
        engine: CompiledModel,
        module: torch.nn.Module | None,
        builder: Builder | None,
    ) -> None:
        super().__init__(engine.target, manifest.inputs, manifest.structure)
        self.id = id
        self.folder = folder
        self.manifest = manifest
        self.module = module
        self._engine = engine
        self._builder = builder

    @property
    def key(self) -> str:
        """Digest of its content."""
        return self.manifest.key

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty if it has none."""
        return self.manifest.labels

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured when it was saved."""
        return dict(self.manifest.metrics)

    @property
    def nbytes(self) -> int:
        """Size of its files in bytes."""
        return size_on_disk(self.folder, self.manifest)

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        import numpy as np

        results = self._engine._run(arrays)
        for index, result in enumerate(results):
            if result.dtype.kind == "f" and np.isnan(result).any():
                raise MlkitError(f"output {index} of the model is NaN", where=self.id)
        return results

    def __repr__(self) -> str:
        return f"<{self.id} {super().__repr__()[1:]}"

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (open_artefact, (self.id, self.folder, self._builder, self.key))


def open_artefact(
    id: str, folder: Path, builder: Builder | None = None, key: str | None = None
) -> Artefact:
    """Verify and load the model of a folder.

    Args:
        id: name in messages.
        folder: its folder.
        builder: replaces the manifest's builder.
        key: the key that its manifest must have.

    Raises:
        MlkitError: a file is missing or was changed, or the model cannot be loaded.
        DefinitionError: the builder is missing, or returns another module.
    """
    manifest = ModelManifest.read(folder)
    if key not in (None, manifest.key):
        raise _changed(folder / MANIFEST, str(key), manifest.key)
    for name, expected in manifest.files.items():
        got = file_digest(folder / name)
        if got != expected:
            raise _changed(folder / name, expected, got)
    if manifest.format != "safetensors":
        return Artefact(id, folder, manifest, _on_openvino(folder, manifest), None, None)
    from mlkit.models.torch_engine import TorchModel

    if builder is not None and importable_name(builder) == manifest.builder is not None:
        builder = None  # so that it is one value, however it was loaded
    build = builder or _imported(manifest.builder, id)
    try:
        module = load_weights(
            functools.partial(build, **manifest.kwargs), folder / FILES["safetensors"]
        )
    except MlkitError:
        raise
    except Exception as error:
        raise DefinitionError(
            f"the module cannot be built: {error}",
            where=id,
            fix="pass the builder= and kwargs= that it was built with when you save it",
        ) from error
    engine = TorchModel(
        whole(module, manifest.preprocess),
        choose(engine="torch", precision=manifest.precision),
        manifest.inputs,
        manifest.structure,
        independent=bool(manifest.batch_sizes),
    )
    return Artefact(id, folder, manifest, engine, module, builder)


def size_on_disk(folder: Path, manifest: ModelManifest) -> int:
    """Size of the files of a model in bytes."""
    return sum((folder / name).stat().st_size for name in manifest.files)


def _on_openvino(folder: Path, manifest: ModelManifest) -> CompiledModel:
    """Compile a model, or load what was compiled on this machine before."""
    from mlkit.models.openvino_engine import OpenVinoModel, fingerprint

    target = choose(engine="openvino", precision=manifest.precision)

    def build() -> Any:
        return compiled(
            folder / FILES[manifest.format],
            manifest.inputs,
            manifest.structure,
            manifest.precision,
            manifest.batch_sizes,
        )

    key = cache.content_key([fingerprint(), manifest.key])
    for _ in range(2):
        try:
            entry = cache.entry(key, lambda fresh: build().save(fresh))
        except OSError as error:  # such as a home directory that cannot be written
            warnings.warn(f"cannot cache the compiled model: {error}", stacklevel=2)
            return cast(CompiledModel, build())
        loaded = OpenVinoModel.load(entry, target, manifest.inputs)
        if loaded is not None:
            return loaded
        cache.discard(entry)
    raise MlkitError("the compiled model cannot be read back", where=str(entry))


def compiled(
    file: Path,
    inputs: Sequence[ArraySpec],
    structure: Structure,
    precision: PrecisionUsed,
    batch_sizes: Sequence[int],
) -> Any:
    """Compile an OpenVINO or ONNX file for this machine.

    Raises:
        MlkitError: OpenVINO cannot run it on such inputs.
    """
    import openvino

    from mlkit.models.openvino_engine import OpenVinoModel, read_model

    target = choose(engine="openvino", precision=precision)
    model = read_model(file)
    try:
        model.reshape(
            {
                index: openvino.PartialShape([-1 if n is None else n for n in spec.shape])
                for index, spec in enumerate(inputs)
            }
        )
        sizes = sorted({1, *batch_sizes}) if batch_sizes else ()
        return OpenVinoModel.build(model, target, tuple(inputs), structure, sizes)
    except RuntimeError as error:
        raise MlkitError(
            f"OpenVINO cannot run the model: {str(error).strip()[-300:]}",
            where=str(file),
            expected=f"a model of {', '.join(map(str, inputs))}",
        ) from error


def importable_name(builder: Builder) -> str | None:
    """``module:name`` of a builder that other processes can import; None for those of a cell."""
    module, name = builder.__module__, getattr(builder, "__qualname__", "<object>")
    if module == "__main__" or "<" in name:
        return None
    return f"{module}:{name}"


def _imported(name: str | None, id: str) -> Builder:
    """Import a builder: a module class, or a function that is annotated to return a module.

    Nothing else is called, so that a manifest cannot name any function of any package.
    """
    import torch

    if name is None:
        raise DefinitionError(
            "the class of the module was defined in a notebook, which cannot be imported",
            where=id,
            fix=f"pass it: models.load({id!r}, builder=Net); or define it in a module",
        )
    try:
        module, _, path = name.partition(":")
        builder: Any = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise DefinitionError(
            f"cannot import its builder {name}: {error}",
            where=id,
            fix=f"install or write it, or pass one: models.load({id!r}, builder=...)",
        ) from error
    result = builder if isinstance(builder, type) else _annotated(builder)
    if not (isinstance(result, type) and issubclass(result, torch.nn.Module)):
        raise DefinitionError(
            "the builder does not say that it returns a torch module; it is not called",
            where=id,
            expected="a subclass of torch.nn.Module, or a function annotated to return one",
            got=name,
        )
    return cast("Builder", builder)


def _annotated(function: Any) -> Any:
    """What a function is annotated to return, with names that are imported for types only."""
    import torch

    try:
        return typing.get_type_hints(function, localns={"torch": torch}).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def file_digest(file: Path) -> str:
    """SHA-256 of a file, computed once in each process while the file stays as it is.

    Raises:
        MlkitError: it is missing.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise MlkitError(f"the file is missing: {error.strerror}", where=str(file)) from None
    return _hashed(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hashed(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(file: Path, expected: str, got: str) -> MlkitError:
    return MlkitError(
        "the file has changed since it was saved; the model is not loaded",
        where=str(file),
        expected=f"sha256 {expected[:16]}…",
        got=f"{got[:16]}…",
        fix="save the model again, or restore the file",
    )
