"""A torch module that is compiled: loaded on first use, with its preprocessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlkit.errors import DefinitionError
from mlkit.models.model import Array, ArraySpec, CompiledModel, Structure, Target
from mlkit.models.whole import Preprocess, is_module, tensors, whole

if TYPE_CHECKING:
    import torch

__all__ = ["Source"]


class Source:
    """A module that is loaded on first use."""

    def __init__(
        self, module: Any, examples: tuple[Array, ...], preprocess: Preprocess | None
    ) -> None:
        if not is_module(module) and not callable(module):
            raise DefinitionError(
                "not a torch module",
                where="compile_model",
                expected="a torch.nn.Module, or a function that returns one",
                got=type(module).__name__,
            )
        self._module = module
        self.examples = examples
        self.preprocess = preprocess
        self._loaded: tuple[torch.nn.Module, Structure] | None = None

    def load(self) -> tuple[torch.nn.Module, Structure]:
        """Return the module with its preprocessing, and the structure of its results."""
        if self._loaded is None:
            module = self._module if is_module(self._module) else self._module()
            self._loaded = whole(module.eval(), self.preprocess), self._structure_of(module)
        return self._loaded

    def _structure_of(self, module: torch.nn.Module) -> Structure:
        import torch

        first, *rest = tensors(self.examples)
        if self.preprocess is not None:
            first = self.preprocess.apply(first)
        with torch.inference_mode():
            return Structure.unpack(module(first, *rest))[0]

    def on_torch(
        self, target: Target, inputs: tuple[ArraySpec, ...], *, independent: bool
    ) -> CompiledModel:
        """Return the module as torch runs it."""
        from mlkit.models.torch_engine import TorchModel

        module, structure = self.load()
        return TorchModel(module, target, inputs, structure, independent=independent)
