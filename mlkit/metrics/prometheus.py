"""Metrics of an app in Prometheus's text format, and in OpenMetrics, which has exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics_format
from prometheus_client.samples import Exemplar as Sampled

from mlkit.metrics.gather import DurationTotals, Exemplar, Gatherer
from mlkit.metrics.histogram import EDGES_S

__all__ = ["CONTENT_TYPE", "OPENMETRICS", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = openmetrics_format.CONTENT_TYPE_LATEST

_ITEMS = {
    "first": ("mlkit_first_item_seconds", "Time from receiving a request to its first item."),
    "between": ("mlkit_between_items_seconds", "Time from one item of a request to the next."),
}
_POOL_COUNTS = {
    "hits": "Uses of a model that was in memory.",
    "loads": "Models loaded.",
    "evictions": "Models dropped to make room.",
    "failed": "Loadings of models that failed.",
}
_POOL_READINGS = {
    "resident": "Models in memory.",
    "bytes": "Size of the models in memory.",
    "budget_bytes": "Memory that models may take.",
}


def exposition(
    gathered: Gatherer, pipeline: str, now: float, *, openmetrics: bool = False
) -> bytes:
    """Return all metrics of an app for a Prometheus scrape.

    Args:
        gathered: the metrics.
        pipeline: the app.
        now: seconds since the epoch.
        openmetrics: whether as OpenMetrics, where buckets of the duration of requests have an
            exemplar: a request with its ids.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(gathered, pipeline, now))
    generate: Any = openmetrics_format.generate_latest if openmetrics else generate_latest
    text: bytes = generate(registry)
    return text


class _Collector:
    def __init__(self, gathered: Gatherer, pipeline: str, now: float) -> None:
        self.gathered = gathered
        self.pipeline = pipeline
        self.now = now

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        yield from self._requests()
        yield from self._steps()
        yield from self._processes()

    def _requests(self) -> Iterator[Metric]:
        totals, name = self.gathered.totals, [self.pipeline]
        requests = CounterMetricFamily(
            "mlkit_requests", "Requests answered.", labels=["pipeline", "status"]
        )
        for status, count in sorted(totals.status.items()):
            requests.add_metric([*name, status], count)
        yield requests
        held = HistogramMetricFamily(
            "mlkit_request_duration_seconds",
            "Time from receiving a request to its response.",
            labels=["pipeline"],
        )
        _add(held, name, totals.held, self.gathered.exemplars)
        yield held
        for which, (metric, meaning) in _ITEMS.items():
            if which in totals.items:  # of pipelines that stream
                items = HistogramMetricFamily(metric, meaning, labels=["pipeline"])
                _add(items, name, totals.items[which])
                yield items
        for way, count in zip(("received", "sent"), totals.bytes, strict=True):
            transferred = CounterMetricFamily(
                f"mlkit_{way}_bytes", f"Bytes of bodies {way}.", labels=["pipeline"]
            )
            transferred.add_metric(name, count)
            yield transferred

    def _steps(self) -> Iterator[Metric]:
        totals, labels = self.gathered.totals, ["pipeline", "stage", "step"]
        runs = HistogramMetricFamily(
            "mlkit_step_duration_seconds", "Run time of a step per call.", labels=labels
        )
        waits = CounterMetricFamily(
            "mlkit_step_wait_seconds", "Time requests waited for a step.", labels=labels
        )
        errors = CounterMetricFamily(
            "mlkit_step_errors", "Requests that failed in a step.", labels=labels
        )
        sizes = CounterMetricFamily(
            "mlkit_step_batched_items",
            "Items by the size of their batch.",
            labels=[*labels, "size"],
        )
        for key, series in sorted(totals.runs.items()):
            where = [self.pipeline, *key]
            _add(runs, where, series)
            waits.add_metric(where, totals.waited_s[key])
            errors.add_metric(where, totals.errors[key])
            for size, count in sorted(totals.sizes.get(key, {}).items()):
                sizes.add_metric([*where, str(size)], count)
        yield from (runs, waits, errors, sizes)

    def _processes(self) -> Iterator[Metric]:
        latest = self.gathered.latest(self.now)
        cpu = CounterMetricFamily(
            "mlkit_cpu_seconds", "CPU time of a stage's replicas.", labels=["pipeline", "stage"]
        )
        for stage, seconds in sorted(self.gathered.totals.cpu_s.items()):
            cpu.add_metric([self.pipeline, stage], seconds)
        replica = ["pipeline", "stage", "replica"]
        memory = GaugeMetricFamily(
            "mlkit_replica_resident_bytes", "Resident memory of a replica.", labels=replica
        )
        flight = GaugeMetricFamily(
            "mlkit_in_flight_requests", "Requests in flight.", labels=replica
        )
        queued = GaugeMetricFamily(
            "mlkit_queued_requests", "Requests queued for a step.", labels=[*replica, "step"]
        )
        for delta in latest:
            where = [self.pipeline, delta["stage"], delta["process"]]
            memory.add_metric(where, delta["rss"])
            flight.add_metric(where, delta.get("in_flight", 0))
            for step, count in delta.get("queued", {}).items():
                queued.add_metric([*where, step], count)
        yield from (cpu, memory, flight, queued)
        yield from self._pools()

    def _pools(self) -> Iterator[Metric]:
        pools = [delta for delta in self.gathered.latest(self.now) if "pools" in delta]
        families: list[tuple[Any, dict[str, str]]] = [
            (CounterMetricFamily, _POOL_COUNTS),
            (GaugeMetricFamily, _POOL_READINGS),
        ]
        for kind, meanings in families if pools else ():
            for name, meaning in meanings.items():
                family = kind(
                    f"mlkit_pool_{name}", meaning, labels=["pipeline", "stage", "replica"]
                )
                for delta in pools:
                    where = [self.pipeline, delta["stage"], delta["process"]]
                    family.add_metric(where, sum(pool[name] for pool in delta["pools"]))
                yield family


def _add(
    family: Any,
    labels: Sequence[str],
    series: DurationTotals,
    exemplars: Mapping[int, Exemplar] | None = None,
) -> None:
    examples = {k: Sampled(*exemplar) for k, exemplar in (exemplars or {}).items()}
    buckets: list[tuple[str, int, Sampled | None]] = []
    below = 0
    for place, edge in enumerate((*map(str, EDGES_S), "+Inf")):
        below += series.counts[place]
        buckets.append((edge, below, examples.get(place)))
    family.add_metric(list(labels), buckets, series.sum_s)
