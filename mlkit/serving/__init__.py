"""Serving: a pipeline on Ray Serve behind FastAPI, from a cell.

Three programs, each a subpackage: `kernel` is what a notebook holds (`deploy`, `attach`, `App`),
`control` the detached session process, `replica` what runs in Ray's processes, with the HTTP face
in `http`. `port` has every import of Ray and Ray Serve. A pipeline travels as a `bundle`.

With ``fastapi=`` the application is the user's own (`http/userapp.py`), whose routes get the
pipeline by `served`; `asgi` gives the same application in this process, without Ray.
"""

from mlkit.serving.http.inprocess import asgi
from mlkit.serving.http.userapp import served
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.deployment import attach, deploy
from mlkit.serving.kernel.status import AppStatus
from mlkit.serving.limits import Limits

__all__ = ["App", "AppStatus", "Limits", "asgi", "attach", "deploy", "served"]
