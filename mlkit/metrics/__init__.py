"""Metrics of an app: exact counts, merged from all of its processes, in bounded memory.

Each process has a `Recorder`; every half second it pushes what it counted as a `Delta` to one
`Gatherer`, from which a kernel reads deltas into a `History`::

    app.metrics.to_frame(last_s=60, every_s=1)          # the whole app, a row a second
    app.metrics.to_frame(by="step")                     # a row for each step and second
    app.slowest(10)                                     # requests, the slowest first
    app.trace(id).plot()                                # one of them as a Gantt chart

Durations are HDR histograms, so that percentiles over several replicas are those of all their
requests. While the gatherer cannot be reached, nothing is dropped: deltas wait, and merge. What a
process had not pushed is lost with it when it is killed. A request that its client cancelled before
the response is not counted.
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
