"""The Serve application of an exported pipeline, for ``serve run`` and ``serve deploy``."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from mlkit.errors import DeployError
from mlkit.serving.http.inprocess import asgi
from mlkit.serving.http.jobstore import MEMORY
from mlkit.serving.http.logs import log_as
from mlkit.serving.limits import Limits

__all__ = ["application"]

TOKEN = "MLKIT_TOKEN"
JOBS = "MLKIT_JOBS_FILE"
LOG_FORMAT = "MLKIT_LOG_FORMAT"


def application(
    target: str,
    *,
    folder: str | None = None,
    fastapi: str | None = None,
    authenticate: bool = True,
    **limits: Any,
) -> Any:
    """Return a Serve application of one deployment, which has the pipeline's name.

    Each replica imports the pipeline and runs all of its steps. Requests need the bearer token in
    the environment variable ``MLKIT_TOKEN`` of the replicas. Several replicas share jobs if
    ``MLKIT_JOBS_FILE`` names a file on their machine. With ``MLKIT_LOG_FORMAT=json`` they write
    their log to standard error as JSON, with the id of the request.

    Args:
        target: ``MODULE:PIPELINE``, which replicas import.
        folder: folder of the module; replicas run in it, so that relative paths are found.
        fastapi: variable of the module with a FastAPI application that embeds the pipeline.
        authenticate: False if a gateway in front of it authenticates requests.
        **limits: of a replica; see `mlkit.serving.Limits`.
    """
    from ray import serve

    bounds = Limits(**limits)

    def build() -> ASGIApp:
        return _application(target, folder, authenticate, bounds, fastapi)

    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name=target.partition(":")[2],
        max_ongoing_requests=bounds.max_ongoing_requests,
    )
    return deployment.bind()


def _application(
    target: str,
    folder: str | None,
    authenticate: bool,
    limits: Limits,
    fastapi: str | None = None,
) -> ASGIApp:
    """Import the pipeline in a replica.

    Raises:
        DeployError: there is no token.
    """
    log_as(os.environ.get(LOG_FORMAT, ""))
    token = os.environ.get(TOKEN) or None
    if authenticate and token is None:
        raise DeployError(
            "there is no token for requests",
            where=f"application {target}",
            fix=f"set {TOKEN} in the environment of Ray's processes, from a secret; or pass "
            "authenticate=False behind a gateway that authenticates",
        )
    if folder is not None and Path(folder).is_dir():
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
    module, _, name = target.partition(":")
    imported = importlib.import_module(module)
    return asgi(
        getattr(imported, name),
        fastapi=getattr(imported, fastapi) if fastapi else None,
        token=token if authenticate else None,
        limits=limits,
        jobs=_jobs_file(os.environ.get(JOBS), name),
    )


def _jobs_file(file: str | None, name: str) -> str | Path:
    """A file per pipeline, since all applications of a machine have the same environment."""
    if not file:
        return MEMORY
    return Path(file).with_name(f"{Path(file).stem}.{name}{Path(file).suffix}")
