"""Rendering of the package's Jinja templates, with autoescaping."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jinja2

from mlkit.views import palette

__all__ = ["render", "stylesheet"]


def render(template_name: str, **context: Any) -> str:
    """Render a template: ``render("error.html.j2", title=..., message=...)``."""
    return _environment().get_template(template_name).render(**context)


@cache
def stylesheet(template_name: str) -> str:
    """Render a style sheet without white space: it may be sent with every refresh."""
    text = re.sub(r"\s+", " ", render(template_name))
    return re.sub(r" ?([{};,>]) ?|(?<=:) ", r"\1", text).replace(";}", "}")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mlkit", "views/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["palette"] = palette
    return environment
