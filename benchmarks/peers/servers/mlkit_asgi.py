"""mlkit without Ray, under uvicorn."""

from mlkit.serving import asgi
from mlkit.tagging import tag

app = asgi(tag)
