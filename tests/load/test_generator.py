"""The scheduling core on virtual time: exact, and a minute takes milliseconds."""

import time

import numpy as np
import pytest

from mlkit.load import poisson
from mlkit.load.generator import ClosedLoop, OpenLoop, SteeredLoop

EVERY_10_MS = [k / 100 for k in range(6000)]


def stalls(begin, end, otherwise=0.005):
    """A server that answers nothing between two moments, then everything at once."""
    return lambda now: end - now if begin <= now < end else otherwise


def test_a_minute_of_open_loop_is_exact_and_takes_no_time(open_loop):
    began = time.process_time()
    run = open_loop(EVERY_10_MS, lambda now: 0.005)
    assert time.process_time() - began < 2
    assert len(run.sent) == 6000
    assert np.abs(run.sent - EVERY_10_MS).max() < 1e-6
    assert np.abs(run.finished - run.intended - 0.005).max() < 1e-6
    assert run.ended_at == pytest.approx(60.0)


def test_a_slow_answer_never_delays_the_next_request(open_loop):
    run = open_loop(EVERY_10_MS, stalls(10, 11))
    assert np.abs(run.sent - run.intended).max() < 1e-6


def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed(open_loop, closed_loop):
    """Coordinated omission: 2% of the time nothing is answered, and p99 must say so."""
    opened = open_loop(EVERY_10_MS, stalls(10, 11.2))
    closed = closed_loop(1, stalls(10, 11.2, otherwise=0.01))
    p99 = {run: np.quantile(run.finished - run.intended, 0.99) for run in (opened, closed)}
    assert p99[opened] > 0.5
    assert p99[closed] < 0.011
    assert (closed.finished - closed.intended).max() > 1.1


def test_a_generator_that_wakes_late_says_so(open_loop):
    run = open_loop(EVERY_10_MS, lambda now: 0.005, delay=0.004)
    assert (run.sent - run.intended).min() == pytest.approx(0.004, abs=1e-6)
    assert (run.intended == EVERY_10_MS).all()


def test_what_became_due_meanwhile_is_sent_at_once(open_loop):
    run = open_loop([0.0, 0.001, 0.002, 0.003], lambda now: 0.5, delay=0.01)
    assert run.sent == pytest.approx([0.01] * 4)


def test_requests_time_out_one_by_one_after_their_own_send(open_loop):
    never_after_1 = lambda now: float("inf") if now >= 1 else 0.01  # noqa: E731
    run = open_loop([0.0, 1.0, 1.5, 3.0], never_after_1, timeout_s=5.0)
    assert run.errors == {1: "timeout", 2: "timeout", 3: "timeout"}
    assert run.finished == pytest.approx([0.01, 6.0, 6.5, 8.0], abs=1e-5)
    assert run.server.abandoned == {1, 2, 3}


def test_beyond_the_most_in_flight_requests_are_not_sent_but_noted(open_loop):
    run = open_loop([0.0, 0.1, 0.2, 0.3], lambda now: 10.0, max_in_flight=2)
    assert run.server.sent == [0, 1]
    assert run.errors == {2: "unsent", 3: "unsent"}
    assert run.generator.unsent == 2


def test_an_open_loop_lasts_its_duration_and_then_waits_for_answers(open_loop):
    quiet = open_loop([1.0], lambda now: 0.01, duration_s=20.0)
    assert quiet.ended_at == pytest.approx(20.0)
    slow = open_loop([1.0], lambda now: 25.0, duration_s=20.0)
    assert slow.ended_at == pytest.approx(26.0)
    assert (quiet.ends, slow.ends) == (1, 1)


def test_an_empty_schedule_ends(open_loop):
    assert open_loop([], lambda now: 0.0).ends == 1


def test_warm_up_requests_are_intended_before_the_start(open_loop):
    spec = poisson(rate=20)
    times = [*spec.warmup_times(2.0), *spec.times(60.0)]
    run = open_loop(times, lambda now: 0.001, warmup_s=2.0)
    assert (run.intended < 0).sum() == 40
    assert run.sent == pytest.approx(times, abs=1e-6)


def test_a_closed_loop_keeps_its_concurrency_and_sends_on_each_answer(closed_loop):
    run = closed_loop(4, lambda now: 0.5, duration_s=10.0)
    assert len(run.sent) == 4 * 20
    assert run.generator.most_in_flight == 4
    assert run.sent[4:] == pytest.approx(run.finished[:-4])


def test_a_closed_loop_sends_nothing_after_its_duration(closed_loop):
    run = closed_loop(3, lambda now: 0.7, duration_s=10.0, warmup_s=1.0)
    assert run.sent.min() == pytest.approx(-1.0)
    assert run.sent.max() < 10.0 < run.finished.max()
    assert run.ends == 1


def test_a_closed_loop_does_not_spin_when_nothing_listens(closed_loop):
    run = closed_loop(2, lambda now: "refused", duration_s=10.0)
    assert len(run.sent) == pytest.approx(2 * 10 / 0.05, abs=2)


def test_a_closed_loop_goes_on_after_a_time_out(closed_loop):
    run = closed_loop(1, lambda now: float("inf"), duration_s=10.0, timeout_s=2.0)
    assert run.sent == pytest.approx([0, 2, 4, 6, 8], abs=1e-4)


@pytest.mark.parametrize(("loop", "argument"), [(OpenLoop, EVERY_10_MS), (ClosedLoop, 5)])
def test_stopping_waits_a_grace_then_gives_up_what_is_on_its_way(simulation, loop, argument):
    run = simulation(loop, argument, lambda now: 0.01 if now < 2.9 else 9.0)
    run.clock.call_at(1003.0, run.generator.stop, 1.0)
    run.run()
    assert run.generator.stopped_at == pytest.approx(3.0)
    assert run.sent.max() < 3.0 + 1e-6
    assert set(run.errors.values()) == {"stopped"}
    assert run.finished.max() == pytest.approx(4.0)
    assert run.ends == 1


def test_a_few_failures_of_each_kind_are_kept_as_samples(open_loop):
    run = open_loop(EVERY_10_MS[:50], lambda now: "reset")
    assert len(run.errors) == 50
    assert [slot for slot, _ in run.generator.log.samples["reset"]] == [0, 1, 2, 3, 4]


def steered(simulation, rate, takes=lambda at: 0.0, gap=lambda: 1.0, **limits):
    """A steered loop on virtual time that has not begun."""

    def loop(argument, *args, **kwargs):
        return SteeredLoop(argument, gap, *args, **kwargs)

    return simulation(loop, rate, takes, **limits)


def test_a_steered_loop_sends_at_its_rate(simulation):
    run = steered(simulation, 10.0, duration_s=2.0).run()
    assert len(run.sent) == 19  # the first one gap after the start, none at the end
    assert np.allclose(np.diff(run.intended), 0.1)


def test_another_rate_counts_from_the_moment_it_is_set(simulation):
    run = steered(simulation, 1.0, duration_s=20.0)
    run.clock.call_at(run.clock.time() + 10.5, run.generator.steer, 10.0)
    run.run()
    before, after = run.intended[run.intended <= 10.5], run.intended[run.intended > 10.5]
    assert np.allclose(np.diff(before), 1.0)
    assert np.allclose(np.diff(after), 0.1)
    assert after[0] == pytest.approx(10.6)  # and not after the gap of a second drawn before


def test_a_slow_answer_delays_no_steered_request(simulation):
    run = steered(simulation, 10.0, takes=lambda at: 5.0, duration_s=2.0).run()
    assert np.allclose(run.sent, run.intended)
    assert run.generator.most_in_flight == 19


def test_a_steered_loop_can_be_stopped(simulation):
    run = steered(simulation, 10.0, takes=lambda at: 5.0, duration_s=100.0)
    run.clock.call_at(run.clock.time() + 1.05, run.generator.stop, 1.0)
    run.run()
    assert len(run.sent) == 10
    assert run.ends == 1
