"""The page on which a deployed pipeline can be tried: one HTML document without other requests."""

from __future__ import annotations

import base64
import hashlib
from functools import cache

from mlkit.define.docstring import words
from mlkit.serving.http.playground import TryPage
from mlkit.views.graph import to_html as graph_html
from mlkit.views.templating import render

__all__ = ["policy", "to_html"]


def to_html(page: TryPage) -> str:
    """Render the page."""
    doc = words(page.graph.doc)
    return render(
        "playground.html.j2",
        graph=page.graph,
        drawing=graph_html(page.graph),
        summary=doc.summary,
        description=doc.description,
        fields=page.fields,
        secured=page.secured,
        script=_script(),
    )


@cache
def policy() -> str:
    """Return its ``Content-Security-Policy``: only its own script runs, nothing else is loaded.

    Style attributes are allowed, as pictures and what values show of themselves have them; they
    cannot load anything.
    """
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'sha256-{digest}'",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "media-src data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


@cache
def _script() -> str:
    return render("playground.js")
