"""Measurements of what is claimed about speed: ``python -m benchmarks``.

Two things at a time, by turns, with the bootstrap interval of their ratio: `compare`.
"""
