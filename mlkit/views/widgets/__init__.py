"""The live dashboard of an app, its controls and its load panel.

The only package that imports IPython and ipywidgets; needs the extra ``notebook``. Its data can be
had as DataFrames without it: ``app.metrics.to_frame()``.
"""

from mlkit.errors import require_extra

__all__ = []

require_extra("notebook", "IPython", "ipywidgets")
