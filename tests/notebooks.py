"""A pytest plugin for ``--nbval``: the notebooks of a run share one session, one after another."""

from __future__ import annotations

import os

import pytest

from mlkit.serving.kernel.session import Session


def pytest_sessionstart(session: pytest.Session) -> None:
    """Name the session; the kernels inherit it. Workers of a parallel run have one each."""
    os.environ["MLKIT_SESSION"] = f"notebooks-{os.getpid()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the session before its lease expires."""
    shared = Session.of_this_notebook()
    if shared is not None:
        shared.stop()
