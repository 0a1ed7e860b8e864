"""A pytest plugin for ``--nbval``: the notebooks of a run share one session, one after another."""

from __future__ import annotations

import os
import tempfile

import pytest

from mlkit.serving.kernel.session import Session


def pytest_sessionstart(session: pytest.Session) -> None:
    """Name the session, and keep load tests out of the user's store; the kernels inherit both.

    Workers of a parallel run have a session each.
    """
    os.environ["MLKIT_SESSION"] = f"notebooks-{os.getpid()}"
    folder = tempfile.TemporaryDirectory(prefix="mlkit-runs-")
    session.config.add_cleanup(folder.cleanup)
    os.environ["MLKIT_RUNS_DIR"] = folder.name


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the session before its lease expires."""
    shared = Session.of_this_notebook()
    if shared is not None:
        shared.stop()
