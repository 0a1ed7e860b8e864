"""Metrics of an app, merged exactly from all of its processes, in bounded memory.

Each process has a `Recorder`, which pushes its counts as a `Delta` to one `Gatherer` every half
second; a kernel reads the deltas into a `History`::

    app.metrics.to_frame(last_s=60, every_s=1)          # the app, one row per second
    app.metrics.to_frame(by="step")                     # one row per step and second
    app.slowest(10)                                     # requests, the slowest first
    app.trace(id).plot()                                # one request as a Gantt chart

Durations are HDR histograms, so that percentiles over several replicas are those of all their
requests. While the gatherer is unreachable, deltas are kept and merged, and none is dropped. Counts
that a killed process had not pushed are lost. Requests that their client cancelled before the
response are not counted.
"""

from mlkit.metrics.gather import Gatherer
from mlkit.metrics.histogram import Histogram
from mlkit.metrics.history import History, Sample
from mlkit.metrics.recorder import Delta, Recorder
from mlkit.metrics.rolling import WINDOWS, Point, Rolling
from mlkit.metrics.trace import PHASES, Span, Trace

__all__ = [
    "PHASES",
    "WINDOWS",
    "Delta",
    "Gatherer",
    "Histogram",
    "History",
    "Point",
    "Recorder",
    "Rolling",
    "Sample",
    "Span",
    "Trace",
]
