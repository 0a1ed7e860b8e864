"""How everything looks: HTML and SVG views, figures in `mpl`, live views in `widgets`.

A view is a function of finished data: it does no I/O, runs nothing and works on a closed object.
It imports what it shows; what is shown imports its view in ``_repr_html_``, ``plot`` and the like.
matplotlib is imported only by `mpl`, IPython and ipywidgets only by `widgets`::

    from mlkit.views import Dashboard

    Dashboard(app)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit.views.widgets.dashboard import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> Any:
    """`Dashboard`, which needs ipywidgets, on first use."""
    if name == "Dashboard":
        from mlkit.views.widgets.dashboard import Dashboard

        return Dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
