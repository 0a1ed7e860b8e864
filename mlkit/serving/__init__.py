"""Serving of pipelines on Ray Serve behind FastAPI, from a notebook.

Subpackages by process: `kernel` runs in the notebook (`deploy`, `attach`, `App`), `control` is the
detached session process, `replica` and `http` run in Ray's processes. Only `port` imports Ray.

`deploy` with ``fastapi=`` embeds a pipeline in a user's application, whose routes depend on
it through `served`. `asgi` creates the same application in this process, without Ray.
"""

from mlkit.serving.http.dependency import served
from mlkit.serving.http.holders import requires
from mlkit.serving.http.inprocess import asgi
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.dataset import MappedDataset, map_dataset
from mlkit.serving.kernel.deployment import attach, deploy
from mlkit.serving.kernel.status import AppStatus
from mlkit.serving.kernel.warming import warm_up
from mlkit.serving.limits import Limits

__all__ = [
    "App",
    "AppStatus",
    "Limits",
    "MappedDataset",
    "asgi",
    "attach",
    "deploy",
    "map_dataset",
    "requires",
    "served",
    "warm_up",
]
