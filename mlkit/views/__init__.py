"""Views: HTML, SVG and text renderers, figures in `mpl`, live widgets in `widgets`.

A view is a pure function of finished data: it does no I/O and works on closed objects. Views import
what they render; an object imports its view in ``_repr_html_``, ``plot`` and the like. Only `mpl`
imports matplotlib, only `widgets` IPython and ipywidgets::

    from mlkit.views import Dashboard

    Dashboard(app)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit.views.widgets.dashboard import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> Any:
    """Import `Dashboard`, which needs ipywidgets, on first access."""
    if name == "Dashboard":
        from mlkit.views.widgets.dashboard import Dashboard

        return Dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
