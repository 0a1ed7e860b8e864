"""When a request is sent again, in virtual time."""

from hypothesis import given
from hypothesis import strategies as st

from mlkit.serving.retries import BACKOFF_S, BUDGET, MAX_RETRIES, Retries, RetryBudget


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def waits(retries: Retries, left_s: float = 60.0) -> list[float]:
    """The waits of a request whose every attempt is lost at once."""
    taken = []
    while (wait_s := retries.wait_s(left_s)) is not None:
        taken.append(wait_s)
        left_s -= wait_s
    return taken


def test_a_lost_request_is_sent_twice_more_after_growing_waits() -> None:
    retries = Retries(RetryBudget(), idempotent=True, uniform=middle)
    assert waits(retries) == [BACKOFF_S, 2 * BACKOFF_S]
    assert retries.wait_s(60.0) is None


def test_one_that_is_not_idempotent_is_not_sent_again() -> None:
    assert waits(Retries(RetryBudget(), idempotent=False)) == []


@given(st.floats(-1, 1))
def test_no_retry_begins_past_the_deadline(left_s) -> None:
    assert sum(waits(Retries(RetryBudget(), idempotent=True), left_s)) <= max(0.0, left_s)


def test_what_has_no_time_for_a_retry_does_not_spend_the_budget() -> None:
    budget = RetryBudget(capacity=1)
    assert Retries(budget, idempotent=True).wait_s(0.001) is None
    assert waits(Retries(budget, idempotent=True)) != []


@given(st.integers(1, 300))
def test_a_target_that_is_gone_gets_a_share_more_than_it_was_asked(requests) -> None:
    budget = RetryBudget(capacity=10, share=0.2)
    sent = sum(1 + len(waits(Retries(budget, idempotent=True))) for _ in range(requests))
    assert sent <= requests * 1.2 + 10


def test_all_that_a_replica_was_working_on_when_it_died_is_sent_again() -> None:
    budget = RetryBudget()
    attempts = [Retries(budget, idempotent=True) for _ in range(int(BUDGET))]
    assert all(retries.wait_s(60.0) is not None for retries in attempts)
    assert Retries(budget, idempotent=True).wait_s(60.0) is None


def test_the_budget_recovers_with_requests_and_no_further() -> None:
    budget = RetryBudget(capacity=2, share=0.5)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_waits_differ_between_requests() -> None:
    found = {tuple(waits(Retries(RetryBudget(), idempotent=True))) for _ in range(10)}
    assert len(found) == 10
    assert {len(each) for each in found} == {MAX_RETRIES}
