"""Models that ONNX Runtime runs on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlkit.errors import MissingExtra
from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target

__all__ = ["OnnxModel"]


class OnnxModel(CompiledModel):
    """An ONNX file with the interface of compiled models.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
    """

    def __init__(
        self, file: Path, target: Target, inputs: tuple[ArraySpec, ...], structure: Structure
    ) -> None:
        super().__init__(target, inputs, structure)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("not installed", expected="onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = target.threads
        # Idle threads would spin on cores that other models need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._names = [node.name for node in self._session.get_inputs()]
        self._turns = threading.BoundedSemaphore(target.workers)

    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        with self._turns:
            results: list[Array] = self._session.run(
                None, dict(zip(self._names, arrays, strict=True))
            )
        return results
