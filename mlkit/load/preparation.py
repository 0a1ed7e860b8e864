"""Preparation of a load test: its plan, and the job of its generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from mlkit.errors import LoadError
from mlkit.load.arrivals import MAX_IN_FLIGHT, Arrivals
from mlkit.load.expect import Expect, Expectation, expectation
from mlkit.load.job import pack
from mlkit.load.options import Settings
from mlkit.load.payloads import select
from mlkit.load.requests import Preparable, Server, preparer, wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LoadPlan", "prepare"]


class LoadPlan(NamedTuple):
    """The plan of a load test, fixed before it starts.

    Attributes:
        target: the server, as text.
        arrivals: when requests are sent.
        settings: the arguments.
        order: indices of the payloads in the order of sending, over and over.
        first: number of warm-up requests that are scheduled: the slot that sends the first payload.
        payloads: number of different payloads.
        parts: number of payloads by part of a mix.
        expected: what counts as a success.
        streams: whether the responses are streams of items.
        versions: versions of the code that answers, where the targets know them.
    """

    target: str
    arrivals: Arrivals
    settings: Settings
    order: NDArray[np.int64]
    first: int
    payloads: int
    parts: Mapping[str, int]
    expected: Expectation
    streams: bool
    versions: tuple[str, ...]


def prepare(
    target: Preparable | str,
    payloads: Any,
    arrivals: Arrivals,
    settings: Settings,
    expect: Expect | None,
    *,
    endless: Mapping[str, Any] | None = None,
) -> tuple[LoadPlan, Iterable[bytes]]:
    """Return the plan, and the worker's job: schedule, order of the payloads, encoded requests.

    Args:
        target: an App or a URL.
        payloads: what `load_test` takes.
        arrivals: when requests are sent.
        settings: durations, objective and seed.
        expect: what counts as a success.
        endless: for a test whose schedule is made and whose log is bounded while it runs: what the
            worker needs to know of it.

    Raises:
        LoadError: the target, the payloads or ``expect`` are invalid.
    """
    import numpy as np

    times, warmup, needed = np.empty(0), np.empty(0), None
    if endless is None:
        warmup, times = arrivals.planned(settings.duration_s, settings.warmup_s)
        needed = len(times) + len(warmup) or None
    selection = select(payloads, needed, settings.seed)
    # Only what is sent is encoded.
    used, order = np.unique(selection.order, return_inverse=True)
    targets = [selection.targets[index] or target for index in used]
    prepared = [
        preparer(target).prepare(selection.payloads[index])
        for target, index in zip(targets, used, strict=True)
    ]
    server, requests = _to_wire(prepared)
    expected = expectation(expect, nonempty=all(hasattr(target, "graph") for target in targets))
    plan = LoadPlan(
        target=_describe(target, prepared),
        arrivals=arrivals,
        settings=settings,
        order=selection.order,
        first=len(warmup),
        payloads=len(selection.payloads),
        parts=selection.parts,
        expected=expected,
        streams=_streams(targets),
        versions=_versions(targets),
    )
    job = {
        "host": server.host,
        "port": server.port,
        "tls": server.tls,
        "loop": arrivals.loop,
        "endless": endless,
        "headless": [k for k, request in enumerate(prepared) if request.method == "HEAD"],
        "statuses": sorted(expected.statuses),
        "nonempty": expected.nonempty,
        "keeps_bodies": expected.judge is not None,
        "streams": plan.streams,
        "limits": {
            "duration_s": settings.duration_s,
            "warmup_s": settings.warmup_s,
            "timeout_s": settings.timeout_s,
            "max_in_flight": MAX_IN_FLIGHT,
        },
    }
    schedule = np.concatenate([warmup, times]).tobytes()
    return plan, pack(job, schedule, order.astype(np.uint32).tobytes(), requests)


def _streams(targets: Sequence[Any]) -> bool:
    kinds = {bool(getattr(getattr(target, "graph", None), "streams", False)) for target in targets}
    if len(kinds) > 1:
        raise LoadError(
            "an app that streams and one that does not cannot be mixed",
            where="mix(...)",
            fix="run a load test of each",
        )
    return kinds.pop()


def _versions(targets: Sequence[Any]) -> tuple[str, ...]:
    versions = (getattr(target, "version", None) for target in targets)
    return tuple(dict.fromkeys(version for version in versions if isinstance(version, str)))


def _to_wire(prepared: list[Any]) -> tuple[Server, list[bytes]]:
    wired = [wire(request) for request in prepared]
    servers = {server for server, _ in wired}
    if len(servers) > 1:
        raise LoadError(
            "a load test has one target server",
            expected="requests that all go to the same host and port",
            got=", ".join(sorted(f"{server.host}:{server.port}" for server in servers)),
        )
    return servers.pop(), [raw for _, raw in wired]


def _describe(target: Preparable | str, prepared: list[Any]) -> str:
    parts = urlsplit(target if isinstance(target, str) else prepared[0].url)
    # Passwords and tokens in a query do not belong in a repr.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
