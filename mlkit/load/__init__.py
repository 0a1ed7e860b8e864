"""Trustworthy load tests: open loop, no coordinated omission, raw records.

::

    from mlkit.load import load_test, poisson

    result = load_test(app, payloads, poisson(rate=50), duration_s=20, slo_ms=150)
    result                # the figures; says so when the test is void
    result.plot()         # latency over time, and its distribution to p99.9
    result.to_frame()     # every request
    compare(result, other)          # with intervals: faster, slower or undecided
    capacity(app, payloads, SLO(p99_ms=150)).plot()   # the highest rate that meets it
    assert_budget(result, SLO(p99_ms=150))            # in a test

`poisson` and `constant` send at scheduled times, however long responses take; so do `ramp`, `jump`
and `spike`, at a rate that changes, and `steered`, whose rate you change while it runs. Latency
counts from the scheduled time, so there is no coordinated omission. `closed` sends on each
response, which measures the saturated throughput and nothing else. The generator runs in a process
of its own and reports its own lateness and CPU time.
"""

from mlkit.load.arrivals import closed, constant, jump, poisson, ramp, spike
from mlkit.load.budget import Budget, assert_budget
from mlkit.load.capacity import Capacity, capacity
from mlkit.load.compare import Comparison, compare
from mlkit.load.records import RequestRecord
from mlkit.load.results import LoadResult
from mlkit.load.runner import LoadRun, last_result, load_test
from mlkit.load.slo import SLO, Verdict
from mlkit.load.steered import steered
from mlkit.load.sweep import Sweep, sweep

__all__ = [
    "SLO",
    "Budget",
    "Capacity",
    "Comparison",
    "LoadResult",
    "LoadRun",
    "RequestRecord",
    "Sweep",
    "Verdict",
    "assert_budget",
    "capacity",
    "closed",
    "compare",
    "constant",
    "jump",
    "last_result",
    "load_test",
    "poisson",
    "ramp",
    "spike",
    "steered",
    "sweep",
]
