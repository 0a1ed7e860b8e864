"""MLflow model folders, written and read without MLflow, and never from a pickle.

An exported folder is that of the artefact, with what MLflow expects beside it: ``MLmodel``,
``requirements.txt``, ``conda.yaml`` and ``python_env.yaml``. MLflow runs ONNX models itself, and
the others through `_load_pyfunc`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from mlkit.errors import DefinitionError, MlkitError, entry_point
from mlkit.models.artefact import MANIFEST, Artefact, Builder, ModelManifest, open_artefact
from mlkit.models.model import Array, ArraySpec
from mlkit.models.store import adopt, locate, save_model

__all__ = ["export_mlflow", "import_mlflow"]

DESCRIPTION = "MLmodel"
FLAVOR = "mlkit"
_ORIGIN = ("mlflow_version", "model_uuid", "run_id")
_REQUIREMENTS = "requirements.txt"
_ENVIRONMENTS = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}


@entry_point
def export_mlflow(
    id: str, folder: str | PathLike[str], *, store: str | PathLike[str] | None = None
) -> Path:
    """Write a model of the store as an MLflow model folder, and return its path.

    ``mlflow.pyfunc.load_model(folder).predict(array)`` runs it. An ONNX model also has MLflow's own
    flavor ``onnx``, which does not need mlkit; the others need mlkit, and the package of the torch
    module's class, where they run.

    Args:
        id: ``garment:v2``, ``garment@production`` or ``garment``.
        folder: path of the new folder.
        store: folder of models; see `store_dir`.

    Raises:
        InputError: there is no such model.
        DefinitionError: the folder exists, or the class of the module cannot be imported.
        MlkitError: a file is missing or was changed.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists():
        raise DefinitionError("this folder exists already", where=str(target))
    id, source = locate(id, store)
    manifest = ModelManifest.read(source)
    if manifest.format == "safetensors" and manifest.builder is None:
        raise DefinitionError(
            "MLflow could not load the model: its class was defined in a notebook",
            where=id,
            fix="define it in a module and save the model again, or save what "
            "openvino.convert_model(net, example_input=x) returns, which needs no class",
        )
    open_artefact(id, source)
    partial = target.with_name(f".{target.name}-{os.getpid()}-{os.urandom(4).hex()}")
    partial.mkdir(parents=True)
    try:
        for name in (MANIFEST, *manifest.files):
            shutil.copyfile(source / name, partial / name)
        _describe(id, partial, manifest)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _describe(id: str, folder: Path, manifest: ModelManifest) -> None:
    """Write the files by which MLflow knows a model."""
    python = platform.python_version()
    function: dict[str, Any] = {"env": _ENVIRONMENTS, "python_version": python}
    flavors: dict[str, Any] = {
        FLAVOR: {"id": id, "version": version_of("mlkit")},
        "python_function": function,
    }
    if manifest.format == "onnx":
        (file,) = manifest.files
        function |= {"loader_module": "mlflow.onnx", "data": file}
        flavors["onnx"] = {"data": file, "providers": ["CPUExecutionProvider"]}
        requirements = ["mlflow", "onnx", "onnxruntime"]
    else:
        function["loader_module"] = __name__
        requirements = ["mlflow", f"mlkit[models]=={version_of('mlkit')}"]
    inputs, outputs = _names(folder, manifest)
    description = {
        "flavors": flavors,
        "metadata": {"labels": list(manifest.labels), "metrics": dict(manifest.metrics)},
        "model_uuid": manifest.key,
        "signature": {
            "inputs": _schema(manifest.inputs, inputs),
            "outputs": _schema(manifest.outputs, outputs),
        },
        "utc_time_created": f"{manifest.saved_at:%Y-%m-%d %H:%M:%S.%f}",
    }
    pip = {"pip": requirements}
    files = {
        DESCRIPTION: description,
        _ENVIRONMENTS["conda"]: {
            "name": "mlflow-env",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", "pip", pip],
        },
        _ENVIRONMENTS["virtualenv"]: {
            "python": python,
            "build_dependencies": ["pip"],
            "dependencies": [f"-r {_REQUIREMENTS}"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / _REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements))


def _names(folder: Path, manifest: ModelManifest) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the inputs and outputs."""
    if manifest.format == "onnx":
        from mlkit.models.openvino_engine import read_model

        model = read_model(folder / next(iter(manifest.files)))
        return [port.any_name for port in model.inputs], [port.any_name for port in model.outputs]
    inputs = [f"input_{index}" for index in range(len(manifest.inputs))]
    names = manifest.structure.names or [f"output_{i}" for i in range(len(manifest.outputs))]
    return inputs, names


def _schema(specs: Sequence[ArraySpec], names: Sequence[str]) -> str:
    """MLflow's schema of tensors; a single one has no name, so that it is passed as an array."""
    return json.dumps(
        [
            ({"name": name} if len(specs) > 1 else {})
            | {
                "type": "tensor",
                "tensor-spec": {
                    "dtype": spec.dtype,
                    "shape": [-1 if n is None else n for n in spec.shape],
                },
            }
            for spec, name in zip(specs, names, strict=True)
        ]
    )


def _load_pyfunc(path: str) -> _Function:
    """Load a folder that `export_mlflow` wrote; MLflow calls it by this name."""
    folder = Path(path)
    return _Function(open_artefact(_described(folder)["flavors"][FLAVOR]["id"], folder))


class _Function:
    """A model with MLflow's interface: one array, or several by the names of the signature."""

    def __init__(self, model: Artefact) -> None:
        self._model = model
        self._inputs, self._outputs = _names(model.folder, model.manifest)

    def predict(self, data: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        arrays = [data[name] for name in self._inputs] if isinstance(data, Mapping) else [data]
        results = self._model(*arrays)
        if isinstance(results, tuple):
            return dict(zip(self._outputs, results, strict=True))
        return results


@entry_point
def import_mlflow(
    folder: str | PathLike[str],
    name: str,
    version: str | None = None,
    *,
    example: Array | tuple[Array, ...] | None = None,
    labels: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    builder: Builder | None = None,
    store: str | PathLike[str] | None = None,
) -> Artefact:
    """Save the model of an MLflow model folder as a version of a name, and return it as it loads.

    A folder that `export_mlflow` wrote comes back as it was saved: its files are verified. Of
    others the flavor ``onnx`` is imported. Everything else may be a pickle, which can run any code
    when it is read, and is refused.

    Args:
        folder: path of the folder that has ``MLmodel``.
        name: see `save_model`.
        version: see `save_model`.
        example: input to run an ONNX model with; by default zeros of the shape that the file says,
            with 1 for each free axis.
        labels: of an ONNX model; see `save_model`.
        metrics: of an ONNX model; see `save_model`.
        builder: returns the torch module, without weights, if its class cannot be imported here.
        store: folder of models; see `store_dir`.

    Raises:
        DefinitionError: the folder has another flavor, or an argument is invalid.
        MlkitError: the folder or a file of it is missing, was changed, or cannot be run.
    """
    from mlkit.models.openvino_engine import read_model

    root = Path(folder).expanduser().absolute()
    description = _described(root)
    flavors = description["flavors"]
    if FLAVOR in flavors:
        return adopt(root, name, version, builder=builder, store=store)
    if "onnx" not in flavors:
        raise DefinitionError(
            "this MLflow model is not imported: reading it could run any code, as a pickle can",
            where=str(root),
            expected=f"the flavor onnx, or {FLAVOR}, which models.export_mlflow writes",
            got=f"only {', '.join(flavors)}",
            fix="where it was trained, save it with mlflow.onnx.save_model, or save its torch "
            "module with models.save, as safetensors",
        )
    file = _inside(root, flavors["onnx"].get("data"))
    specs = [_spec(port) for port in read_model(file).inputs]
    return save_model(
        file,
        name,
        version,
        example=tuple(map(_zeros, specs)) if example is None else example,
        dynamic_axes=sorted({i for spec in specs for i, n in enumerate(spec.shape) if n is None}),
        labels=labels,
        metrics=metrics,
        provenance={"mlflow": {k: str(description[k]) for k in _ORIGIN if k in description}},
        store=store,
    )


def _described(folder: Path) -> dict[str, Any]:
    """What ``MLmodel`` says, with a dict for each of the flavors."""
    try:
        description = yaml.safe_load((folder / DESCRIPTION).read_bytes())
    except OSError as error:
        raise MlkitError(f"no MLflow model: {error.strerror}", where=str(folder)) from None
    except yaml.YAMLError as error:
        problem = str(error).partition("\n")[0]
        raise MlkitError(f"not YAML: {problem}", where=str(folder / DESCRIPTION)) from None
    flavors = description.get("flavors") if isinstance(description, dict) else None
    if not isinstance(flavors, dict) or not all(isinstance(f, dict) for f in flavors.values()):
        raise MlkitError("it has no flavors", where=str(folder / DESCRIPTION))
    return dict(description)


def _inside(folder: Path, name: Any) -> Path:
    """Path of a file of a folder."""
    file = (folder / str(name)).resolve()
    if not file.is_file() or not file.is_relative_to(folder.resolve()):
        raise MlkitError("there is no such file in the folder", where=str(folder), got=repr(name))
    return file


def _spec(port: Any) -> ArraySpec:
    """Dtype and shape of an input of an ONNX model."""
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise DefinitionError(
            "the model does not say how many axes its input has",
            where=port.any_name,
            fix="export it with the shapes of its inputs",
        )
    lengths = (None if length.is_dynamic else length.get_length() for length in shape)
    return ArraySpec(port.element_type.to_dtype().name, tuple(lengths))


def _zeros(spec: ArraySpec) -> Array:
    import numpy as np

    return np.zeros([1 if n is None else n for n in spec.shape], spec.dtype)
