"""Preprocessing as part of a module."""

import torch

from mlkit.models import Preprocess
from mlkit.models.whole import whole


def test_constants_of_the_preprocessing_move_with_the_module() -> None:
    module = whole(torch.nn.Identity(), Preprocess(mean=(1.0, 2.0, 3.0), scale=4.0))
    assert {name for name, _ in module.named_buffers()} == {"mean", "scale"}
    assert module.to("meta").mean.is_meta
    assert not module.state_dict()
