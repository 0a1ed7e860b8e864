"""How everything looks: HTML and SVG views, figures in `mpl`, live views in `widgets`.

A view is a function of finished data: it does no I/O, runs nothing and works on a closed object.
Whatever a template is given is escaped. matplotlib is imported only by `mpl`, IPython and
ipywidgets only by `widgets`, and both only when something is shown::

    from mlkit.views import Dashboard

    Dashboard(app)
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

    from mlkit.views.widgets import Dashboard

__all__ = ["Dashboard", "render"]


def __getattr__(name: str) -> Any:
    """`Dashboard`, which needs ipywidgets, on first use."""
    if name == "Dashboard":
        from mlkit.views.widgets import Dashboard

        return Dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def render(template_name: str, **context: Any) -> str:
    """Fill a template of this package: ``render("error.html.j2", title=..., message=...)``."""
    return _environment().get_template(template_name).render(**context)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("mlkit", "views/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
