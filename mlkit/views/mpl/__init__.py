"""Figures: everything that is drawn with matplotlib, imported when a ``plot()`` is called."""
