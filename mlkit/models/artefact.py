"""Models on disk: one folder each, with all that is needed to run it, and never a pickle.

A folder has the weights as safetensors, OpenVINO IR or ONNX, and ``manifest.json``: the signature,
preprocessing, labels, metrics and provenance, and the SHA-256 of every file.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import platform
import shutil
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version as version_of
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
from pydantic_core import PydanticSerializationError, to_json

from mlkit.errors import DefinitionError, MlkitError
from mlkit.models import cache
from mlkit.models.model import Array, ArraySpec, CompiledModel, PrecisionUsed, Structure
from mlkit.models.target import choose
from mlkit.models.weights import load_weights, save_weights
from mlkit.models.whole import Preprocess, is_module, tensors, whole

if TYPE_CHECKING:
    import openvino
    import torch

__all__ = ["MANIFEST", "Artefact", "ModelManifest", "open_artefact", "write_artefact"]

MANIFEST = "manifest.json"
_FILES = {"safetensors": "model.safetensors", "openvino": "model.xml", "onnx": "model.onnx"}
_TOLERANCE: dict[PrecisionUsed, float] = {"fp32": 1e-3, "bf16": 5e-2}

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
        got = _sha256(folder / name)
        if got != expected:
            raise _changed(folder / name, expected, got)
    if manifest.format != "safetensors":
        return Artefact(id, folder, manifest, _on_openvino(folder, manifest), None, None)
    from mlkit.models.torch_engine import TorchModel

    if builder is not None and _importable_name(builder) == manifest.builder is not None:
        builder = None  # so that it is one value, however it was loaded
    build = builder or _imported(manifest.builder, id)
    try:
        module = load_weights(
            functools.partial(build, **manifest.kwargs), folder / _FILES["safetensors"]
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


def write_artefact(
    model: torch.nn.Module | openvino.Model | Path,
    folder: Path,
    *,
    id: str,
    example: Array | tuple[Array, ...],
    builder: Builder | None,
    kwargs: Mapping[str, Any],
    preprocess: Preprocess | None,
    precision: PrecisionUsed,
    batch_sizes: Sequence[int],
    dynamic_axes: Sequence[int],
    labels: Sequence[str],
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> ModelManifest:
    """Write a model to an empty folder, and check that it loads and computes the same.

    Raises:
        DefinitionError: the model cannot be saved, or not be loaded again.
        MlkitError: it returns NaN for the example, or what was loaded computes something else.
    """
    examples = example if isinstance(example, tuple) else (example,)
    inputs = tuple(ArraySpec.of(array, dynamic_axes) for array in examples)
    known: dict[str, Any] = {
        "inputs": inputs,
        "kwargs": kwargs,
        "preprocess": preprocess,
        "precision": precision,
        "batch_sizes": batch_sizes,
        "labels": labels,
        "metrics": {name: float(value) for name, value in metrics.items()},
    }
    if is_module(model):
        module = cast("torch.nn.Module", model)
        builder = builder or type(module)
        save_weights(module, folder / _FILES["safetensors"])
        structure, expected = _outputs_of(module, examples, preprocess)
        known |= {"format": "safetensors", "builder": _importable_name(builder)}
        library = "torch"
    else:
        if builder is not None or kwargs or preprocess is not None:
            raise DefinitionError(
                "builder=, kwargs= and preprocess= are for torch modules",
                where=id,
                fix="compile the preprocessing into the model, as compile_model does",
            )
        known["format"] = _copied(cast("openvino.Model | Path", model), folder, id)
        structure, expected = _run_once(folder / _FILES[known["format"]], known, examples)
        library = "openvino"
    _check_outputs(id, structure, expected, labels)
    known |= {
        "structure": structure,
        "outputs": [ArraySpec.of(a, (0,) if 0 in dynamic_axes else ()) for a in expected],
        "provenance": {
            "python": platform.python_version(),
            **{package: version_of(package) for package in ("mlkit", library)},
            **provenance,
        },
        "files": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
        "saved_at": datetime.now(UTC),
    }
    try:
        manifest = ModelManifest.model_validate_json(to_json(known))
    except (ValidationError, PydanticSerializationError) as error:
        raise DefinitionError(
            f"labels, metrics, kwargs and provenance must be plain data: {error}", where=id
        ) from None
    manifest = manifest.model_copy(update={"key": manifest.digest()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    _check_agreement(open_artefact(id, folder, builder), examples, expected)
    return manifest


def _check_agreement(
    loaded: Artefact, examples: Sequence[Array], expected: Sequence[Array]
) -> None:
    """Compare what was loaded again: its builder may be that of another module."""
    import numpy as np

    tolerance = _TOLERANCE[loaded.manifest.precision]
    for wanted, got in zip(expected, loaded._run(examples), strict=True):
        limit = tolerance * max(1.0, float(np.abs(wanted).max(initial=0)))
        if wanted.shape != got.shape or np.abs(wanted - got).max(initial=0) > limit:
            raise MlkitError(
                "the model computes something else after it was loaded again",
                where=loaded.id,
                expected=f"{list(wanted.shape)}, {wanted.ravel()[:3]}…",
                got=f"{list(got.shape)}, {got.ravel()[:3]}…",
                fix="pass the builder= and kwargs= that this module was built with",
            )


def _outputs_of(
    module: torch.nn.Module, examples: Sequence[Array], preprocess: Preprocess | None
) -> tuple[Structure, Sequence[Array]]:
    """Run a module in evaluation mode where it is, and leave it as it was."""
    import torch

    modes = {inner: inner.training for inner in module.modules()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    first, *rest = (tensor.to(device) for tensor in tensors(examples))
    try:
        with torch.inference_mode():
            first = first if preprocess is None else preprocess.apply(first)
            structure, flat = Structure.unpack(module.eval()(first, *rest))
    finally:
        for inner, mode in modes.items():
            inner.training = mode
    return structure, [(t.float() if t.dtype == torch.bfloat16 else t).cpu().numpy() for t in flat]


def _copied(model: openvino.Model | Path, folder: Path, id: str) -> Literal["openvino", "onnx"]:
    """Write an OpenVINO model, or copy the file of a model; the format."""
    import openvino

    from mlkit.models.openvino_engine import read_model

    if isinstance(model, Path) and model.suffix == ".onnx":
        copy = folder / _FILES["onnx"]
        shutil.copyfile(model, copy)
        with suppress(MlkitError):  # its weights are in files beside it
            read_model(copy)
            return "onnx"
        copy.unlink()
    if isinstance(model, Path) and model.suffix in {".onnx", ".xml"}:
        model = read_model(model)
    if not isinstance(model, openvino.Model):
        raise DefinitionError(
            "cannot be saved",
            where=id,
            expected="a torch module, an OpenVINO model, or the path of an .onnx or .xml file",
            got=str(model) if isinstance(model, Path) else type(model).__name__,
        )
    openvino.save_model(model, folder / _FILES["openvino"], compress_to_fp16=False)
    return "openvino"


def _run_once(
    file: Path, known: Mapping[str, Any], examples: Sequence[Array]
) -> tuple[Structure, Sequence[Array]]:
    engine = _compiled(file, known["inputs"], Structure("tuple"), known["precision"], ())
    expected = engine._run(examples)
    return Structure("array" if len(expected) == 1 else "tuple"), expected


def _check_outputs(
    id: str, structure: Structure, outputs: Sequence[Array], labels: Sequence[str]
) -> None:
    import numpy as np

    for index, output in enumerate(outputs):
        if output.dtype.kind == "f" and np.isnan(output).any():
            raise MlkitError(f"output {index} of the model is NaN for the example", where=id)
    if labels and (structure.kind != "array" or outputs[0].shape[-1:] != (len(labels),)):
        raise DefinitionError(
            "the labels do not fit the output",
            where=id,
            expected=f"as many as the last axis of {[list(o.shape) for o in outputs]}",
            got=f"{len(labels)} labels",
        )


def _on_openvino(folder: Path, manifest: ModelManifest) -> CompiledModel:
    """Compile a model, or load what was compiled on this machine before."""
    from mlkit.models.openvino_engine import OpenVinoModel, fingerprint

    target = choose(engine="openvino", precision=manifest.precision)

    def fill(fresh: Path) -> None:
        file = folder / _FILES[manifest.format]
        _compiled(
            file, manifest.inputs, manifest.structure, manifest.precision, manifest.batch_sizes
        ).save(fresh)

    key = cache.content_key([fingerprint(), manifest.key])
    for _ in range(2):
        entry = cache.entry(key, fill)
        loaded = OpenVinoModel.load(entry, target, manifest.inputs)
        if loaded is not None:
            return loaded
        cache.discard(entry)
    raise MlkitError("the compiled model cannot be read back", where=str(entry))


def _compiled(
    file: Path,
    inputs: Sequence[ArraySpec],
    structure: Structure,
    precision: PrecisionUsed,
    batch_sizes: Sequence[int],
) -> Any:
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


def _importable_name(builder: Builder) -> str | None:
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


def _sha256(file: Path) -> str:
    """Digest of a file, computed once in each process while the file stays as it is."""
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
        "the file is not the one that was saved; the model is not loaded",
        where=str(file),
        expected=f"sha256 {expected[:16]}…",
        got=f"{got[:16]}…",
        fix="save the model again, or restore the file",
    )
