"""Serving: a pipeline on Ray Serve behind FastAPI, from a cell.

`deploy` packs a pipeline (`bundle.py`), finds or starts a session process (`session.py`,
`host.py`), which brings Serve to it (`rayserve.py`, the only place that talks to Ray). A replica
(`replica.py`, `stage.py` for stages of their own) runs the pipeline behind a FastAPI application
made from its types (`ingress.py`). With ``fastapi=`` it is the user's own
application (`userapp.py`), whose routes get the pipeline by `served`; `asgi` gives the same
application in this process. The caller holds an `App`.
"""

from mlkit.serving.app import App
from mlkit.serving.appstatus import AppStatus
from mlkit.serving.deployment import attach, deploy
from mlkit.serving.inprocess import asgi
from mlkit.serving.limits import Limits
from mlkit.serving.userapp import served

__all__ = ["App", "AppStatus", "Limits", "asgi", "attach", "deploy", "served"]
