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
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdigit() and int(threads):
        sys.modules["torch"].set_num_threads(int(threads))  # for all threads
    for library in ThreadpoolController().lib_controllers:
        own = os.environ.get(f"{library.internal_api.upper()}_NUM_THREADS")
        threads = own or os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdigit() and int(threads):
            library.set_num_threads(int(threads))
