"""Figures: all that is drawn with matplotlib, imported when a ``plot()`` is called.

Needs the extra ``load``.
"""

from mlkit.errors import require_extra

__all__ = []

require_extra("load", "matplotlib")
