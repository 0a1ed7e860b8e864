"""Measurements of what is claimed about speed: ``python -m mlkit.bench``.

Two things at a time, by turns, with the bootstrap interval of their ratio: `compare`.
"""
