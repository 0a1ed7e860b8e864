"""The app: deployed, asked over HTTP, and measured under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from mlkit.load import LoadResult, closed, load_test, poisson
from mlkit.pipelines import Pipeline
from mlkit.serving import App
from tools.demo import processes
from tools.demo.pictures import Picture, Tagged, refusal

__all__ = ["Saturated", "best_concurrency", "deployed", "open_loop", "saturate", "tag_pictures"]

MARK = "MLKIT_SESSION"
CONCURRENCIES = (16, 32)
PROBE_S = 2.0


@dataclass(frozen=True)
class Saturated:
    """The app asked by so many clients that it is never idle.

    Attributes:
        result: the load test, every request of which is in its records: it had no warm-up.
        cpu_s: seconds of CPU, by role, of all processes of the session during it.
    """

    result: LoadResult
    cpu_s: Mapping[str, float]

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU that all processes but the client took for one good answer."""
        answered = int(self.result.ok.sum())
        return 1e3 * sum(self.cpu_s.values()) / answered if answered else float("nan")

    @property
    def cpu_ms_by_role(self) -> dict[str, float]:
        """The same by process."""
        answered = int(self.result.ok.sum()) or 1
        return {role: 1e3 * seconds / answered for role, seconds in self.cpu_s.items()}


@contextmanager
def deployed(
    pipeline: Pipeline[..., Any], say: Callable[[str], None], **options: Any
) -> Iterator[tuple[App, float]]:
    """The pipeline served in a session of its own while the block runs, and seconds it took.

    Args:
        pipeline: what to serve.
        say: told what is going on.
        options: of `mlkit.plan.plan`: ``layout="per_step"``.
    """
    from mlkit.plan import plan
    from mlkit.serving.bundle import pack
    from mlkit.serving.kernel.deployment import DEFAULT_LIMITS, deploy_to
    from mlkit.serving.kernel.session import Session

    began = perf_counter()
    planned = plan(pipeline, **options)
    packed = pack(planned)
    session = Session.start(say=say)
    try:
        app = deploy_to(session, planned, packed, token="", limits=DEFAULT_LIMITS, say=say)
        yield app, perf_counter() - began
        app.shutdown()
    finally:
        session.stop()


def tag_pictures(app: App, pictures: Sequence[Picture]) -> list[Tagged]:
    """Every picture through the app, over HTTP; errors in the place of answers, order kept."""
    refused = {i: error for i, picture in enumerate(pictures) if (error := refusal(picture))}
    asked = [i for i in range(len(pictures)) if i not in refused]
    answers = app.map([pictures[i].arguments for i in asked], on_error="keep", progress=False)
    by_place: dict[int, Any] = {**dict(zip(asked, answers, strict=True)), **refused}
    return [_tagged(picture, by_place[i]) for i, picture in enumerate(pictures)]


def _tagged(picture: Picture, outcome: Any) -> Tagged:
    return (
        Tagged(picture, error=outcome)
        if isinstance(outcome, Exception)
        else Tagged(picture, outcome)
    )


def best_concurrency(
    app: App, payloads: Sequence[Any], check: Callable[[], None] = lambda: None
) -> int:
    """How many clients at once get the most answers out of it; this warms it up, too."""
    rates: dict[int, float] = {}
    for concurrency in CONCURRENCIES:
        result = load_test(
            app, payloads, closed(concurrency=concurrency), duration_s=PROBE_S, progress=False
        )
        check()
        rates[concurrency] = result.ok_rate
    return max(rates, key=lambda concurrency: rates[concurrency])


def saturate(app: App, payloads: Sequence[Any], concurrency: int, seconds: float) -> Saturated:
    """Measure a closed loop, and whose CPU it took."""
    session = processes.marked(MARK, app.session.folder.name)
    before = processes.cpu_times(session)
    result = load_test(
        app,
        payloads,
        closed(concurrency=concurrency),
        duration_s=seconds,
        warmup_s=0,  # so that the CPU and the requests are of the same time
        progress=False,
    )
    after = processes.cpu_times(processes.marked(MARK, app.session.folder.name))
    return Saturated(result, processes.spent(before, after))


def open_loop(app: App, payloads: Sequence[Any], rate: float, seconds: float) -> LoadResult:
    """Measure Poisson arrivals at a rate."""
    return load_test(app, payloads, poisson(rate=rate), duration_s=seconds, progress=False)
