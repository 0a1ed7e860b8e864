"""Serving: a pipeline on Ray Serve behind FastAPI, from a cell.

`deploy` packs a pipeline (`bundle.py`), finds or starts a session process (`session.py`,
`host.py`), which brings Serve to it (`rayserve.py`, the only place that talks to Ray). A replica
(`replica.py`) runs the pipeline behind a FastAPI application made from its types (`ingress.py`).
The caller holds an `App`.
"""

from mlkit.serving.app import App, AppStatus
from mlkit.serving.deployment import attach, deploy
from mlkit.serving.limits import Limits

__all__ = ["App", "AppStatus", "Limits", "attach", "deploy"]
