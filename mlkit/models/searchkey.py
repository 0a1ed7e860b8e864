"""Key of a search in the cache: a digest of all that its result depends on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlkit.models import cache
from mlkit.models.model import Array
from mlkit.models.source import Source
from mlkit.models.whole import tensors

__all__ = ["search_key"]

FORMAT = "1"


def search_key(
    source: Source,
    samples: tuple[Array, ...] | None,
    functions: Iterable[Callable[..., Any] | None],
    options: object,
    cache_key: str | None,
) -> str | None:
    """Digest of all that the result depends on; None if a function cannot be digested."""
    from mlkit.models.openvino_engine import fingerprint

    arrays = [array.tobytes() for array in (*source.examples, *(samples or ()))]
    parts: list[str | bytes | Path] = [
        FORMAT,
        fingerprint(),
        version("torch"),
        repr(options),
        *arrays,
    ]
    if cache_key is not None:
        return cache.content_key([*parts, cache_key])
    try:
        return cache.content_key(
            [*parts, *_contents(source), *(part for f in functions for part in _code(f))]
        )
    except Exception:  # pickling calls code of the objects' own
        return None


def _contents(source: Source) -> Iterable[str | bytes]:
    """Weights, structure and code of a module, and its results on the example."""
    import torch

    module, _ = source.load()
    yield str(module)
    for name, tensor in module.state_dict().items():
        yield name
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    for cls in sorted({type(m) for m in module.modules()}, key=lambda cls: cls.__qualname__):
        if not cls.__module__.startswith("torch."):
            with suppress(OSError, TypeError):
                yield inspect.getsource(cls)
    with torch.inference_mode():
        for result in module(*tensors(source.examples)):
            # Rounded: sums differ in the last digits with the number of threads.
            yield repr([f"{x:.3g}" for x in result.double().flatten()[:1000].tolist()])


def _code(function: Callable[..., Any] | None) -> Iterable[str | bytes]:
    """A function with what it refers to; of an imported one, pickles have only the name."""
    import cloudpickle

    yield cloudpickle.dumps(function)
    with suppress(OSError, TypeError):
        yield inspect.getsource(function)  # type: ignore[arg-type]
