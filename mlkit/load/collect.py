"""From the report of a generator to the result of a load test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlkit.load.expect import Expectation, Received
from mlkit.load.log import SAMPLES_PER_KIND
from mlkit.load.records import ClientCost, FailureSample
from mlkit.load.results import LoadResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlkit.load.preparation import LoadPlan
    from mlkit.load.process import WorkerReport

__all__ = ["client_cost", "collect", "failure_samples", "payload_of", "record_columns"]


def collect(plan: LoadPlan, report: WorkerReport) -> LoadResult:
    """Build the result from the worker's report, without the warm-up."""
    import numpy as np

    facts, stopped = report.facts, report.facts["stopped_at"]
    _judge(plan.expected, report)
    columns = record_columns(plan, report)
    measured = columns["intended"] >= 0
    carried = ~measured & (columns["error"] == "") & (columns["finished"] >= 0)
    items = np.frombuffer(report.columns["items"], np.int64)
    settings = plan.settings
    return LoadResult(
        arrivals=plan.arrivals,
        target=plan.target,
        duration_s=settings.duration_s if stopped is None else max(stopped, 0.0),
        planned_s=settings.duration_s,
        warmup_s=settings.warmup_s,
        timeout_s=settings.timeout_s,
        slo_ms=settings.slo_ms,
        seed=settings.seed,
        payloads=plan.payloads,
        parts=dict(plan.parts),
        started=facts["started"],
        interrupted=stopped is not None,
        carried=int(carried.sum()),
        client=client_cost(facts),
        failures=failure_samples(plan, facts),
        columns={name: column[measured] for name, column in columns.items()},
        item_times=np.frombuffer(report.item_times)[np.repeat(measured, items)],
    )


def record_columns(plan: LoadPlan, report: WorkerReport) -> dict[str, NDArray[Any]]:
    """Return the columns of `LoadResult` for all reported rows, those of the warm-up included."""
    import numpy as np

    raw = {name: np.frombuffer(column, column.typecode) for name, column in report.columns.items()}
    rows = len(raw["intended"])
    columns = {
        "intended": raw["intended"],
        "sent": raw["sent"],
        "first_byte": raw["first_byte"],
        "finished": raw["finished"],
        "status": raw["status"],
        "bytes": raw["size"],
        "payload": payload_of(plan, raw["slot"]),
        "error": _texts(report.facts["errors"], rows),
        "server_timing": _texts(report.facts["timings"], rows),
    }
    return columns | {"items": raw["items"]} if plan.streams else columns


def payload_of(plan: LoadPlan, slots: Any) -> NDArray[np.int64]:
    """Return the indices of the payloads that requests carry, by their slots."""
    payload: NDArray[np.int64] = plan.order[(slots - plan.first) % len(plan.order)]
    return payload


def failure_samples(plan: LoadPlan, facts: dict[str, Any]) -> tuple[FailureSample, ...]:
    """Return the first failures of each kind."""
    return tuple(
        FailureSample(error, int(payload_of(plan, slot)), detail)
        for error, of_kind in facts["samples"].items()
        for slot, detail in of_kind
    )


def client_cost(facts: dict[str, Any]) -> ClientCost:
    """Return the generator's resource use."""
    names = ("cpu_s", "connections", "most_in_flight", "unsent", "short_of", "realtime")
    return ClientCost(window_s=facts["cpu_window_s"], **{name: facts[name] for name in names})


def _judge(expected: Expectation, report: WorkerReport) -> None:
    """Add responses with unexpected bodies to the report's errors."""
    if expected.judge is None:
        return
    facts, reasons = report.facts, {}
    successes = len(report.columns["status"]) - len(facts["errors"])
    if successes > len(facts["body_of"]):
        facts["short_of"] = "memory to keep all the different bodies that are to be checked"
    for slot, number in facts["body_of"].items():
        answer = Received(report.columns["status"][int(slot)], *report.bodies[number])
        key = answer.status, number
        if key not in reasons:  # the same body is judged once
            reasons[key] = expected.judge(answer)
        if reasons[key]:
            facts["errors"][slot] = "unexpected"
            samples = facts["samples"].setdefault("unexpected", [])
            if len(samples) < SAMPLES_PER_KIND:
                samples.append((int(slot), reasons[key]))


def _texts(sparse: dict[str, str], rows: int) -> NDArray[np.str_]:
    import numpy as np

    texts = [""] * rows
    for slot, text in sparse.items():
        texts[int(slot)] = text
    return np.array(texts, dtype=np.str_)
