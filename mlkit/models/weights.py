"""Weights that are mapped into memory: loading copies nothing, and processes share the pages.

A module is built on torch's meta device, where tensors have shapes and no contents, so that nothing
is allocated and initialized that the file replaces. Its tensors then refer to the mapped file.
Writing to one copies its pages for this process alone; the file never changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlkit.errors import DefinitionError, MlkitError, entry_point

if TYPE_CHECKING:
    import torch

__all__ = ["load_weights", "save_weights"]

Module = TypeVar("Module", bound="torch.nn.Module")

_SHOWN = 5


@entry_point
def save_weights(module: torch.nn.Module, file: str | PathLike[str]) -> None:
    """Write parameters and persistent buffers of a module to a safetensors file, atomically.

    A tensor that has several names is written once.
    """
    from safetensors.torch import save_model

    path = Path(file)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_model(module, str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@entry_point
def load_weights(build: Callable[[], Module], file: str | PathLike[str]) -> Module:
    """Build a module whose tensors are those of a safetensors file, in evaluation mode.

    ::

        def load_net() -> Net:
            return load_weights(Net, "net.safetensors")

        net = resource(load_net, files=["net.safetensors"])

    Tensors keep the dtypes of the file, and their gradients are off.

    Args:
        build: returns the module; a class, or a function without arguments. It is called a second
            time, off the meta device, if the module computes tensors that are not in the file.
        file: path of the file.

    Raises:
        MlkitError: the file is missing or not in the safetensors format.
        DefinitionError: names or shapes of its tensors are not those of the module.
    """
    import torch

    tensors = _read(Path(file))
    try:
        with torch.device("meta"), _skipping_initialisers()():
            module = build()
        computes = any(True for _ in _computed(module))
    except (NotImplementedError, RuntimeError):  # it reads a tensor's contents
        computes = True
    if computes:
        module = build()
    _assign(module, tensors, Path(file))
    return module.eval()


@functools.cache
def _skipping_initialisers() -> type[AbstractContextManager[Any]]:
    """Context that skips what fills tensors of the meta device.

    That has no effect, and takes most of the time.
    """
    import torch
    from torch.nn import init
    from torch.overrides import TorchFunctionMode

    names = ("uniform_", "normal_", "fill_", "zero_")
    skipped = {getattr(torch.Tensor, name) for name in names}
    skipped |= {getattr(init, name) for name in dir(init) if name[0] != "_" and name[-1] == "_"}

    class Skipping(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func in skipped:
                tensor = args[0] if args else kwargs["tensor"]
                if tensor.is_meta:
                    return tensor
            return func(*args, **kwargs)

    return Skipping


def _read(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise MlkitError("there is no such file", where=str(file)) from None
    except (SafetensorError, OSError) as error:
        raise MlkitError(
            f"not a safetensors file: {error}", where=str(file), fix="write it with save_weights"
        ) from error


def _computed(module: torch.nn.Module) -> Iterator[str]:
    """Names of tensors on the meta device that no file has: of other attributes, and buffers."""
    for prefix, inner in module.named_modules():
        names = inner._non_persistent_buffers_set & inner._buffers.keys()
        names |= {name for name, value in vars(inner).items() if getattr(value, "is_meta", False)}
        yield from (f"{prefix}.{name}" for name in names)


def _assign(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    import torch

    places = _places(module)
    expected = {name: tensor for named in places.values() for name, (tensor, *_) in named.items()}
    missing = [min(named) for named in places.values() if not named.keys() & tensors.keys()]
    wrong = [
        f"{name} {list(tensor.shape)}, not {list(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    unknown = [name for name in tensors if name not in expected]
    for problem, names in (("lacks", missing), ("has unknown", unknown), ("has wrong", wrong)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise DefinitionError(
                f"the file {problem} tensors: {', '.join(sorted(names)[:_SHOWN])}{more}",
                where=str(file),
                fix=f"build the module as it was when it was saved: {type(module).__name__}",
            )
    for named in places.values():
        value = next(tensors[name] for name in named if name in tensors)
        if any(is_parameter for *_, is_parameter in named.values()):
            value = torch.nn.Parameter(value, requires_grad=False)
        for _, members, attribute, _ in named.values():
            members[attribute] = value


def _places(module: torch.nn.Module) -> dict[int, dict[str, tuple[Any, Any, str, bool]]]:
    """Names of each tensor: with the tensor, the dict that has it, its key, and its kind."""
    places: dict[int, dict[str, tuple[Any, Any, str, bool]]] = {}
    for prefix, inner in module.named_modules(remove_duplicate=False):
        for members, is_parameter in ((inner._parameters, True), (inner._buffers, False)):
            for attribute, tensor in members.items():
                if tensor is None or attribute in inner._non_persistent_buffers_set:
                    continue
                name = f"{prefix}.{attribute}" if prefix else attribute
                place = tensor, members, attribute, is_parameter
                places.setdefault(id(tensor), {})[name] = place
    return places
