"""Threads of numerical libraries in a replica."""

from __future__ import annotations

import os
import sys

from threadpoolctl import ThreadpoolController

__all__ = ["limit_threads"]


def limit_threads() -> None:
    """Limit the libraries that are loaded already as the environment says.

    Ray sets ``OMP_NUM_THREADS`` to the CPUs of a replica, by default 1. Its processes may have
    loaded NumPy's BLAS and torch by then, with as many threads as the machine has cores, which
    would compete with those of the other requests, and spin while they wait for work. A variable of
    the library's own, such as ``OPENBLAS_NUM_THREADS``, takes precedence.
    """
    if "torch" in sys.modules and (count := _threads("OMP")):
        # OpenMP's own limit holds for the calling thread only, torch's for all.
        sys.modules["torch"].set_num_threads(count)
    for library in ThreadpoolController().lib_controllers:
        if count := _threads(library.internal_api.upper(), "OMP"):
            library.set_num_threads(count)


def _threads(*prefixes: str) -> int | None:
    """The number in the first of the variables that is set; None if it is no number above 0."""
    values = (os.environ.get(f"{prefix}_NUM_THREADS") for prefix in prefixes)
    value = next(filter(None, values), "")
    return int(value) or None if value.isdigit() else None
