"""Live views and controls of an app: `Dashboard`, its sliders and its load panel.

The only package that imports IPython and ipywidgets. Everything in it re-renders finished data:
whatever a picture shows can be had as a DataFrame first.
"""

from mlkit.views.widgets.dashboard import Dashboard

__all__ = ["Dashboard"]
