"""Trustworthy load tests: open loop, no coordinated omission, raw records.

::

    from mlkit.load import load_test, poisson

    result = load_test(app, payloads, poisson(rate=50), duration_s=20, slo_ms=150)
    result                # the figures; states if the test is void
    result.plot()         # latency over time, and its distribution to p99.9
    result.to_frame()     # every request
    compare(result, other)          # with intervals: faster, slower or undecided
    capacity(app, payloads, SLO(p99_ms=150)).plot()   # the highest rate that meets it
    assert_budget(result, SLO(p99_ms=150))            # in a test

`poisson`, `constant` and `gamma` send at scheduled times, however long responses take; so do
`ramp`, `jump`, `spike` and `diurnal`, at a rate that changes, `replay`, at recorded times, and
``a + b``, one after another. The rate of `steered` is changed while it runs. Latency counts from
the scheduled time, so there is no coordinated omission. `closed` sends on each response, which
measures the saturated throughput and nothing else. The generator runs in a process of its own and
reports its own lateness and CPU time.

`sampled`, `template` and `mix` choose the payload of each request, `soak` runs for hours, and
`runs` lists recorded load tests.
"""

from mlkit.load.arrivals import (
    closed,
    constant,
    diurnal,
    gamma,
    jump,
    poisson,
    ramp,
    spike,
)
from mlkit.load.budget import Budget, assert_budget
from mlkit.load.capacity import Capacity, capacity
from mlkit.load.compare import Comparison, compare
from mlkit.load.payloads import mix, part, sampled, template
from mlkit.load.records import RequestRecord
from mlkit.load.replay import replay
from mlkit.load.results import LoadResult
from mlkit.load.runner import last_result, load_test
from mlkit.load.running import LoadRun
from mlkit.load.runstore import runs
from mlkit.load.slo import SLO, Verdict
from mlkit.load.soak import SoakResult, soak
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
    "SoakResult",
    "Sweep",
    "Verdict",
    "assert_budget",
    "capacity",
    "closed",
    "compare",
    "constant",
    "diurnal",
    "gamma",
    "jump",
    "last_result",
    "load_test",
    "mix",
    "part",
    "poisson",
    "ramp",
    "replay",
    "runs",
    "sampled",
    "soak",
    "spike",
    "steered",
    "sweep",
    "template",
]
