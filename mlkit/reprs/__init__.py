"""How things look in a cell: templates, and the views that fill them.

A view is a function of finished data: it does no I/O, runs nothing and works on a closed object.
Whatever a template is given is escaped.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["render"]


def render(template_name: str, **context: Any) -> str:
    """Fill a template of this package: ``render("error.html.j2", title=..., message=...)``."""
    return _environment().get_template(template_name).render(**context)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("mlkit", "reprs"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
