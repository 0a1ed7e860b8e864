"""The search for a capacity, on simulated servers: minutes of load take milliseconds."""

from dataclasses import dataclass

import numpy as np
import pytest

from mlkit.errors import LoadError
from mlkit.load import SLO
from mlkit.load.capacity import Capacity
from mlkit.load.search import INTERRUPTED, Effort, drive, search
from mlkit.load.slo import Verdict
from tests.load import queues

SERVICE_MS = 10.0
SLO_60 = SLO(p99_ms=60)


def true_capacity(limit_ms):
    """Requests per second of M/D/1 at which p99 is the limit."""
    load = queues.solve(lambda x: queues.md1_quantile(0.99, x) if x < 0.95 else 1e9, limit_ms)
    return load * 1000 / SERVICE_MS


@dataclass
class Run:
    duration_s: float
    latency_ms: np.ndarray
    void: tuple = ()
    interrupted: bool = False

    def verdict(self, slo):
        verdict = slo.judge(self.latency_ms)
        return Verdict("undecided", verdict.judged, "void") if self.void else verdict


class Server:
    """One worker that takes 10 ms; overloaded, its queue grows. Remembers what was asked."""

    def __init__(self, seed=0):
        self.seed, self.probes = 100 * seed, []

    def __call__(self, probe):
        self.probes.append(probe)
        count = int(probe.rate * probe.duration_s)
        load, warmup = probe.rate * SERVICE_MS / 1e3, 500
        self.seed += 1
        fields = {"service_ms": SERVICE_MS, "warmup": warmup if load < 1 else 0}
        return Run(probe.duration_s, queues.md1(1, count, load, seed=self.seed, **fields)[0])


def find(measure, slo=SLO_60, start_rate=60.0, **effort):
    effort = Effort(**{"min_rate": 1.0, "max_run_s": 300.0, **effort})
    trials = []
    reason = drive(search(slo, start_rate, effort), slo, measure, trials)
    return Capacity(
        target="http://127.0.0.1:8000/tag",
        slo=slo,
        trials=tuple(trials),
        saturated=None,
        verify=effort.verify,
        reason=reason,
    )


@pytest.mark.parametrize("start_rate", [5.0, 60.0, 400.0])
def test_the_capacity_of_a_queue_is_found(start_rate):
    truth = true_capacity(60)
    found = find(Server(seed=1), start_rate=start_rate)
    assert found.outcome == "met"
    assert 0.75 * truth <= found.rate <= truth
    assert found.rate < found.unmet_rate <= 1.06 * found.rate
    assert found.reason == ""


def test_no_more_is_claimed_than_is_true():
    found = [find(Server(seed), max_run_s=120.0).rate for seed in range(8)]
    assert max(found) <= true_capacity(60)
    assert np.median(found) >= 0.7 * true_capacity(60)


def test_a_rate_is_verified_before_it_is_reported():
    server = Server(seed=2)
    found = find(server, verify=4)
    verified = [p for p in server.probes if (p.rate, p.phase) == (found.rate, "verify")]
    assert len(verified) == 4
    assert found.evidence[found.rate].outcome == "met"


def test_a_server_that_is_too_slow_at_any_rate_misses():
    found = find(Server(), SLO(p99_ms=9), min_rate=20.0)
    assert (found.outcome, found.rate) == ("missed", None)
    assert found.reason == "no rate down to 20/s holds"


def test_the_highest_rate_that_may_be_tried_is_said_to_be_that():
    found = find(Server(), max_rate=30.0)
    assert (found.rate, found.unmet_rate) == (30.0, None)
    assert found.reason == "30/s is the highest rate that was to be tried"


def test_too_little_time_for_a_verdict_is_undecided_and_says_how_much_it_takes():
    found = find(Server(), max_rate=2.0, max_run_s=100.0)
    assert (found.outcome, found.rate) == ("undecided", None)
    assert "takes 230 s or more (max_run_s)" in found.reason


def test_a_generator_at_its_limit_bounds_the_search():
    server = Server()

    def measure(probe):
        run = server(probe)
        run.void = ("requests left late",) if probe.rate > 40 else ()
        return run

    found = find(measure)
    assert found.rate <= 40 < found.unmet_rate
    assert found.unmet_rate not in found.evidence


def test_a_run_that_was_disturbed_is_repeated_once():
    server = Server()

    def measure(probe):
        run = server(probe)
        run.void = ("requests left late",) if len(server.probes) == 1 else ()
        return run

    found = find(measure, max_rate=30.0)
    assert server.probes[0] == server.probes[1]
    assert found.rate == 30.0


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("within", [True, False])
def test_an_interrupt_keeps_what_was_measured(at, within):
    server = Server()

    def measure(probe):
        run = server(probe)
        if len(server.probes) <= at:
            return run
        if not within:
            raise KeyboardInterrupt
        run.interrupted = True
        return run

    found = find(measure)
    assert found.interrupted
    assert found.reason == INTERRUPTED
    assert len(found.trials) == at + within
    assert (found.outcome, found.rate) == ("undecided", None)


@pytest.mark.parametrize("at", [0, 3])
def test_a_server_that_dies_keeps_what_was_measured(at):
    server = Server()

    def measure(probe):
        if len(server.probes) == at:
            raise LoadError("nothing answers at http://127.0.0.1:8000/tag")
        return server(probe)

    if at == 0:  # nothing was: it is an error
        with pytest.raises(LoadError, match="nothing answers"):
            find(measure)
    else:
        found = find(measure)
        assert len(found.trials) == at
        assert "nothing answers" in found.reason


def test_a_server_that_never_answers_is_not_searched_forever():
    def never(probe):
        count = int(probe.rate * probe.duration_s)
        return Run(probe.duration_s, np.full(count, np.inf))

    found = find(never)
    assert found.outcome == "missed"
    assert len(found.trials) < 30
