"""Whether a load test measured the server, rather than its own generator."""

from __future__ import annotations

from mlkit.load.arrivals import Arrivals, Closed
from mlkit.load.records import ClientCost

__all__ = ["lateness_limit_ms", "void_reasons"]

LATE_MS = 1.0
LATE_SHARE_OF_SLO = 0.05
LEAST_SHARE_OF_RATE = 0.99
BUSY_CORES = 0.9


def lateness_limit_ms(latency_ms: float | None) -> float:
    """How late a generator may send, in ms: 1 ms, or 5% of a latency where that is more."""
    return max(LATE_MS, LATE_SHARE_OF_SLO * (latency_ms or 0.0))


def void_reasons(
    arrivals: Arrivals,
    client: ClientCost,
    *,
    lateness_p99_ms: float,
    slo_ms: float | None,
    asked_rate: float | None,
    sent_rate: float,
) -> tuple[str, ...]:
    """Return why the figures of a load test are not valid; empty for a valid one.

    Args:
        arrivals: the arrival process.
        client: resource use of the generator.
        lateness_p99_ms: p99 of how late requests were sent, in ms.
        slo_ms: latency objective in ms, if any.
        asked_rate: requests per second of the schedule; None for a closed loop.
        sent_rate: requests per second that were sent.
    """
    reasons = []
    if isinstance(arrivals, Closed):
        if client.cores > BUSY_CORES:
            cores = f"({client.cores:.2f} cores)"
            reasons.append(f"the client itself was busy {cores}: it is the limit here")
    else:
        limit_ms = lateness_limit_ms(slo_ms)
        if lateness_p99_ms > limit_ms:
            late = f"p99 {lateness_p99_ms:.1f} ms, the limit is {limit_ms:.1f} ms"
            reasons.append(f"requests left late: {late}")
        asked = asked_rate or 0.0
        if sent_rate < LEAST_SHARE_OF_RATE * asked:
            reasons.append(f"sent {sent_rate:.1f}/s of the requested {asked:.1f}/s")
    if client.unsent:
        most = client.most_in_flight
        reasons.append(f"{client.unsent:,} requests not sent: {most:,} were in flight")
    if client.short_of:
        reasons.append(f"the client's machine ran short: {client.short_of}")
    return tuple(reasons)
