"""Post-training quantisation of OpenVINO models to int8, with nncf."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError, MissingExtra, MlkitError
from mlkit.models.model import Array

if TYPE_CHECKING:
    import openvino

__all__ = ["quantise"]


def quantise(model: openvino.Model, samples: Sequence[Array]) -> openvino.Model:
    """Return a copy of a model with int8 weights and activations; accumulators stay wide.

    Weights have a scale per channel, activations one per tensor, chosen from the values that occur
    on the samples (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018).

    Args:
        model: converted, in fp32.
        samples: the model's inputs, with 100 to 300 representative items along axis 0.

    Raises:
        DefinitionError: there are no samples, or their lengths differ.
        MissingExtra: nncf is not installed.
        MlkitError: nncf cannot quantise the model.
    """
    count = len(samples[0]) if samples else 0
    if not count or any(len(array) != count for array in samples):
        raise DefinitionError(
            "calibration= needs the same number of items in each input, at least one",
            where="quantise",
            got=f"{[len(array) for array in samples]}",
        )
    nncf = _nncf()
    items = [tuple(array[i : i + 1] for array in samples) for i in range(count)]
    data = nncf.Dataset(items, lambda item: dict(enumerate(item)))
    # Products of u8 and s8 are summed in pairs, in 16 bits, by CPUs without VNNI: they overflow
    # there unless weights keep to 7 bits.
    narrow = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    # It draws progress bars on stdout.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            quantised: openvino.Model = nncf.quantize(
                model.clone(),
                data,
                subset_size=count,
                preset=nncf.QuantizationPreset.MIXED,
                advanced_parameters=narrow,
            )
        except Exception as error:
            raise MlkitError(
                f"nncf cannot quantise the model: {str(error).strip()[-300:]}", where="quantise"
            ) from error
    return quantised


def _nncf() -> Any:
    from mlkit.models.openvino_engine import absent

    try:
        # It reports its use as OpenVINO does.
        with absent("openvino_telemetry"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    except ImportError as error:
        raise MissingExtra(
            "int8 needs a library that is not installed",
            expected="nncf",
            fix="pip install 'mlkit[quantise]'",
        ) from error
    nncf.set_log_level(logging.ERROR)
    return nncf
