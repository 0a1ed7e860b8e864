"""What needs a screen: plots, live views and controls.

The only package that imports matplotlib, IPython and ipywidgets, and only when something is shown.
Everything in it re-renders finished data: whatever a picture shows can be had as a DataFrame first.
"""
