"""What needs a screen: plots, live views and controls.

The only package that imports matplotlib, IPython and ipywidgets, and only when something is shown.
`Dashboard` shows an app live, with controls::

    from mlkit.ui import Dashboard

    Dashboard(app)

Everything in it re-renders finished data: whatever a picture shows can be had as a DataFrame first.
"""

from mlkit.ui.dashboard import Dashboard

__all__ = ["Dashboard"]
