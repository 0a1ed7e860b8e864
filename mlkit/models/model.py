"""The interface of compiled models, independent of the engine: arrays in, arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

from mlkit.errors import DefinitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Outputs: TypeAlias = Array | tuple[Array, ...] | dict[str, Array]
else:
    # For `typing.get_type_hints`, without importing numpy.
    Array: TypeAlias = Any
    Outputs: TypeAlias = Any

__all__ = [
    "Array",
    "ArraySpec",
    "CompiledModel",
    "Outputs",
    "PrecisionUsed",
    "Structure",
    "Target",
    "check_rows",
]


PrecisionUsed: TypeAlias = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how a model runs.

    Attributes:
        engine: inference engine.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        precision: of the arithmetic; dtypes of inputs and outputs are unaffected.
        workers: maximum number of concurrent calls; further ones wait.
        threads: CPU threads shared by all calls.
    """

    engine: Literal["onnxruntime", "openvino", "torch"]
    device: str
    precision: PrecisionUsed
    workers: int
    threads: int


@dataclass(frozen=True)
class ArraySpec:
    """Dtype and shape of an input; None marks a dynamic axis."""

    dtype: str
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, array: Array, dynamic_axes: Sequence[int]) -> ArraySpec:
        """Describe an example array."""
        return cls(
            str(array.dtype),
            tuple(None if axis in dynamic_axes else n for axis, n in enumerate(array.shape)),
        )

    def fits(self, array: Array) -> bool:
        """Whether an array has this dtype and shape, and is not empty."""
        shape = array.shape
        return (
            array.dtype.name == self.dtype
            and len(shape) == len(self.shape)
            and all(
                n == want or (want is None and n) for want, n in zip(self.shape, shape, strict=True)
            )
        )

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Structure:
    """The structure of a module's results: one array, a tuple, or a dict with these keys."""

    kind: Literal["array", "tuple", "dict"]
    names: tuple[str, ...] = ()

    def pack(self, arrays: Sequence[Array]) -> Outputs:
        """Restore the structure of flat results."""
        if self.kind == "array":
            return arrays[0]
        if self.kind == "tuple":
            return tuple(arrays)
        return dict(zip(self.names, arrays, strict=True))

    @classmethod
    def unpack(cls, result: Any) -> tuple[Structure, list[Any]]:
        """Flatten a module's result. Entries of a dict that are None are dropped.

        Raises:
            DefinitionError: the result is not a tensor, nor a tuple, list or dict of tensors.
        """
        if isinstance(result, Mapping):
            kept = {str(name): value for name, value in result.items() if value is not None}
            structure, flat = cls("dict", tuple(kept)), list(kept.values())
        elif isinstance(result, (tuple, list)):
            structure, flat = cls("tuple"), list(result)
        else:
            structure, flat = cls("array"), [result]
        if not flat or not all(hasattr(value, "detach") for value in flat):
            raise DefinitionError(
                "the module must return tensors",
                where="compile_model",
                expected="a tensor, or a tuple, list or dict of tensors",
                got=f"{type(result).__name__} of {[type(value).__name__ for value in flat]}",
                fix="wrap it in a module whose forward returns tensors",
            )
        return structure, flat


class CompiledModel(ABC):
    """A model with numpy arrays as inputs and outputs.

    Thread-safe: up to ``target.workers`` calls run concurrently, without the GIL; further ones
    wait. It cannot be sent to another process.

    Attributes:
        target: where and how it runs.
        inputs: dtypes and shapes of its inputs.
        structure: structure of its results.
        timed_ms: duration of a call in each precision that was timed; empty without a choice.
        refused: why a precision was not taken whose results do not agree with those in fp32.
    """

    def __init__(self, target: Target, inputs: tuple[ArraySpec, ...], structure: Structure) -> None:
        self.target = target
        self.inputs = inputs
        self.structure = structure
        self.timed_ms: dict[str, float] = {}
        self.refused: dict[str, str] = {}

    def __call__(self, *arrays: Array) -> Outputs:
        """Run the model.

        Args:
            arrays: the module's inputs, with the dtypes and shapes of `inputs`.

        Returns:
            The module's results as numpy arrays: one, a tuple, or a dict.

        Raises:
            DefinitionError: an array does not have the dtype and shape of `inputs`.
        """
        if len(arrays) != len(self.inputs) or not all(
            spec.fits(array) for spec, array in zip(self.inputs, arrays, strict=False)
        ):
            self._refuse(arrays)
        return self.structure.pack(self._run(arrays))

    def flat(self, arrays: Sequence[Array], *, items: int = 32) -> list[Array]:
        """Run the model on any number of items along axis 0, some at a time; results are flat."""
        import numpy as np

        count = len(arrays[0])
        parts = [
            self._run([array[start : start + items] for array in arrays])
            for start in range(0, count, items)
        ]
        return [np.concatenate(results) for results in zip(*parts, strict=True)]

    @abstractmethod
    def _run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Compute flat results from checked arrays."""

    def _refuse(self, arrays: Sequence[Array]) -> NoReturn:
        raise DefinitionError(
            "the model was compiled for other inputs",
            where="compiled model",
            expected=", ".join(str(spec) for spec in self.inputs),
            got=", ".join(
                f"{getattr(a, 'dtype', type(a).__name__)} {list(getattr(a, 'shape', ()))}"
                for a in arrays
            ),
            fix="convert them, or compile the model with a matching example=",
        )

    def __repr__(self) -> str:
        t = self.target
        timed = ", ".join(
            [f"{ms:.2g} ms in {name}" for name, ms in self.timed_ms.items()]
            + [f"not {name}: {reason}" for name, reason in self.refused.items()]
        )
        return (
            f"<model ({', '.join(str(spec) for spec in self.inputs)}) on {t.device}: "
            f"{t.engine} {t.precision}{f' ({timed})' if timed else ''}, {t.workers} at once>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a compiled model cannot be pickled; pass the step a loader, resource(load_model), "
            "so that each process builds its own"
        )


def check_rows(matrix: Array, values: Array, message: str, *, where: str, expected: str) -> None:
    """Raise `DefinitionError` unless there is one of the values [N] for each row [N, M]."""
    if matrix.ndim != 2 or values.shape != matrix.shape[:1]:
        got = f"{list(matrix.shape)} and {list(values.shape)}"
        raise DefinitionError(message, where=where, expected=expected, got=got)
