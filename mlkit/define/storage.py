"""Contents of torch's tensors: storages as buffers beside a pickle, and tensors in the exact form.

By default torch pickles a storage as the bytes of a file of its own, which is copied several times.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from mlkit.errors import require_extra

__all__ = ["TensorStorage", "restored_tensor", "tensor_state"]


class TensorStorage:
    """Pickles the contents of a storage in the memory of the CPU as one buffer.

    Torch creates a new ``TypedStorage`` for each tensor. One of these stands for all that share
    their memory, and still do afterwards.

    Attributes:
        untyped: the storage; it is kept alive, so that its address identifies it.
    """

    def __init__(self, untyped: Any) -> None:
        self.untyped = untyped

    @classmethod
    def of(cls, storage: Any) -> TensorStorage | None:
        """Return the storage of a ``torch.TypedStorage``; None for any other object."""
        if (type(storage).__module__, type(storage).__name__) != ("torch.storage", "TypedStorage"):
            return None
        untyped = storage._untyped_storage
        if untyped.device.type != "cpu" or not untyped.nbytes():
            return None
        return cls(untyped)

    def reduction(self, storage: Any, known: dict[int, TensorStorage]) -> tuple[Any, ...]:
        """Return how to rebuild a ``torch.TypedStorage``.

        Args:
            storage: the typed storage.
            known: storages that were pickled before, by address.
        """
        return _typed, (known.setdefault(self.untyped.data_ptr(), self), storage.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        import torch

        array: Any = torch.empty(0, dtype=torch.uint8).set_(self.untyped).numpy()
        return _rebuilt, (pickle.PickleBuffer(array),)


def tensor_state(tensor: Any) -> tuple[bytes, dict[str, Any]] | None:
    """Return contents and description of a dense tensor in the memory of the CPU, else None."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return None
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous().clone()
    data: Any = torch.empty(0, dtype=torch.uint8).set_(dense.untyped_storage()).numpy()
    return data.tobytes(), {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "requires_grad": tensor.requires_grad,
        "parameter": type(tensor) is torch.nn.Parameter,
    }


def restored_tensor(data: bytes, state: Mapping[str, Any]) -> Any:
    """Return the tensor of contents and a description.

    Raises:
        ValueError: they do not fit.
    """
    require_extra("models", "torch")
    import torch

    dtype = getattr(torch, state["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"no dtype: {state['dtype']}")
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(state["shape"]).requires_grad_(bool(state["requires_grad"]))
    return torch.nn.Parameter(tensor, tensor.requires_grad) if state["parameter"] else tensor


def _rebuilt(buffer: Any) -> TensorStorage:
    require_extra("models", "torch")
    import torch

    view = memoryview(buffer)
    writable = view if not view.readonly else bytearray(view)  # torch has no read-only tensors
    return TensorStorage(torch.frombuffer(writable, dtype=torch.uint8).untyped_storage())


def _typed(storage: TensorStorage, dtype: Any) -> Any:
    import torch

    kind: Any = torch.storage.TypedStorage
    return kind(wrap_storage=storage.untyped, dtype=dtype, _internal=True)
