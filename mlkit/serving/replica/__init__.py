"""Replicas of fronts and stages: versions of code, calls between stages, logs and failures."""
