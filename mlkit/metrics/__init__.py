"""Metrics of an app, merged exactly from all of its processes, in bounded memory.

Each process has a `Recorder`, which pushes its counts as a `Delta` to one `Gatherer` every half
second; a kernel reads the deltas into a `History`.

Durations are HDR histograms, so that percentiles over several replicas are those of all their
requests. While the gatherer is unreachable, deltas are kept and merged, and none is dropped. Counts
that a killed process had not pushed are lost. Requests that their client cancelled before the
response are not counted.
"""

from mlkit.metrics.context import current_request, traceparent
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
    "current_request",
    "traceparent",
]
