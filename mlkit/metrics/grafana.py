"""A dashboard for Grafana of what `mlkit.metrics.prometheus` exposes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["dashboard"]

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 8
_COLUMNS = 24 // _WIDTH
WITH_EXEMPLARS = "mlkit_request_duration_seconds"
_OF = 'pipeline=~"$pipeline"'
_RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class _Query:
    """A query of PromQL, and the legend of its series.

    ``exemplar`` says whether requests that stand for its buckets are shown as points.
    """

    expression: str
    legend: str
    exemplar: bool = False


@dataclass(frozen=True)
class _Panel:
    """A chart; ``unit`` is one of Grafana's names."""

    title: str
    description: str
    unit: str
    queries: Sequence[_Query]


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_OF}{where}}}{_RATE}))"


def _percentiles(metric: str, by: str, *percents: int) -> list[_Query]:
    legend = "".join(f"{{{{{label}}}}} " for label in by.split(", "))
    buckets = _rate(f"{metric}_bucket", f"le, {by}")
    return [
        _Query(
            f"histogram_quantile({percent / 100:g}, {buckets})",
            f"{legend}p{percent}",
            exemplar=metric == WITH_EXEMPLARS,
        )
        for percent in percents
    ]


def _panels() -> list[_Panel]:
    errors = _rate("mlkit_requests_total", "pipeline", ', status=~"5.."')
    waits = _rate("mlkit_step_wait_seconds_total", "step")
    runs = _rate("mlkit_step_duration_seconds_count", "step")
    batches = _rate("mlkit_step_batched_items_total", "step, size")
    return [
        _Panel(
            "Requests",
            "Answers per second, by status.",
            "reqps",
            [_Query(_rate("mlkit_requests_total", "status"), "{{status}}")],
        ),
        _Panel(
            "Errors",
            "Share of requests that failed, were refused as too many, or were late.",
            "percentunit",
            [_Query(f"{errors} / {_rate('mlkit_requests_total', 'pipeline')}", "{{pipeline}}")],
        ),
        _Panel(
            "Latency",
            "From receiving a request to its response.",
            "s",
            _percentiles("mlkit_request_duration_seconds", "pipeline", 50, 95, 99),
        ),
        _Panel(
            "Run time of steps",
            "95th percentile per call.",
            "s",
            _percentiles("mlkit_step_duration_seconds", "step", 95),
        ),
        _Panel(
            "Waiting for steps",
            "Mean time that a request waits for a step.",
            "s",
            [_Query(f"{waits} / {runs}", "{{step}}")],
        ),
        _Panel(
            "Errors of steps",
            "Requests per second that failed in a step.",
            "reqps",
            [_Query(_rate("mlkit_step_errors_total", "step"), "{{step}}")],
        ),
        _Panel(
            "Batches",
            "Items per second, by step and size of the batch.",
            "cps",
            [_Query(batches, "{{step}} {{size}}")],
        ),
        _Panel(
            "In flight and queued",
            "Requests in flight, and those queued for a step.",
            "short",
            [
                _Query(f"sum by (stage) (mlkit_in_flight_requests{{{_OF}}})", "{{stage}}"),
                _Query(f"sum by (step) (mlkit_queued_requests{{{_OF}}})", "queued: {{step}}"),
            ],
        ),
        _Panel(
            "First item",
            "Of pipelines that stream: from receiving a request to its first item.",
            "s",
            _percentiles("mlkit_first_item_seconds", "pipeline", 50, 99),
        ),
        _Panel(
            "CPU",
            "Busy cores of a stage's replicas.",
            "short",
            [_Query(_rate("mlkit_cpu_seconds_total", "stage"), "{{stage}}")],
        ),
        _Panel(
            "Memory",
            "Resident memory of each replica.",
            "bytes",
            [_Query(f"mlkit_replica_resident_bytes{{{_OF}}}", "{{stage}} {{replica}}")],
        ),
        _Panel(
            "Bytes",
            "Bodies received and sent per second.",
            "Bps",
            [
                _Query(_rate(f"mlkit_{way}_bytes_total", "pipeline"), f"{{{{pipeline}}}} {way}")
                for way in ("received", "sent")
            ],
        ),
    ]


def dashboard() -> dict[str, Any]:
    """Return the model of a dashboard, for Grafana's import; JSON can hold it.

    It has the variables ``datasource``, a Prometheus, and ``pipeline``.
    """
    return {
        "title": "mlkit",
        "uid": "mlkit",
        "tags": ["mlkit"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": list(_laid_out(_panels())),
    }


def _variables() -> list[dict[str, Any]]:
    values = "label_values(mlkit_requests_total, pipeline)"
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "pipeline",
            "label": "Pipeline",
            "type": "query",
            "datasource": _SOURCE,
            "definition": values,
            "query": {"query": values, "refId": "pipeline"},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "sort": 1,
            "current": everything,
        },
    ]


def _laid_out(panels: Sequence[_Panel]) -> Iterator[dict[str, Any]]:
    for place, panel in enumerate(panels):
        row, column = divmod(place, _COLUMNS)
        yield {
            "id": place + 1,
            "type": "timeseries",
            "title": panel.title,
            "description": panel.description,
            "datasource": _SOURCE,
            "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "targets": [
                {
                    "refId": chr(ord("A") + at),
                    "datasource": _SOURCE,
                    "expr": query.expression,
                    "legendFormat": query.legend,
                    "range": True,
                    "exemplar": query.exemplar,
                }
                for at, query in enumerate(panel.queries)
            ],
        }
