"""What is counted of an app: exactly, merged from all of its processes, bounded in memory.

Each process has a `Recorder`; every half second what it counted goes as a `Delta` to one
`Gatherer`, whose deltas a kernel reads into a `History`::

    app.metrics.to_frame(last_s=60, every_s=1)          # the whole app, a row a second
    app.metrics.to_frame(by="step")                     # a row for each step and second
    app.slowest(10)                                     # requests, the slowest first
    app.trace(id).plot()                                # one of them as a Gantt chart

Durations are HDR histograms, so that percentiles of several replicas are those of all their
requests. A request that was cut off by its client before it was answered is not counted.
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
