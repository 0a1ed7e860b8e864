"""Which replica a call goes to by the model that it uses, as a function of what is in flight."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.serving.replica.affinity import BALANCE, SMALL_QUEUE, by_preference, model_key

LOADS = st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 600), max_size=8)


@given(LOADS, st.text())
def test_each_replica_is_tried_once(in_flight: dict[str, int], id: str) -> None:
    assert sorted(by_preference(model_key(id), in_flight)) == sorted(in_flight)


@given(LOADS.filter(bool), st.text())
def test_the_first_never_has_many_more_in_flight_than_the_others(
    in_flight: dict[str, int], id: str
) -> None:
    first, *_ = by_preference(model_key(id), in_flight)
    mean = (sum(in_flight.values()) + 1) / len(in_flight)
    assert in_flight[first] < max(SMALL_QUEUE, BALANCE * mean + 1)


@given(LOADS.filter(bool), st.text())
def test_a_small_queue_moves_no_model(in_flight: dict[str, int], id: str) -> None:
    idle = dict.fromkeys(in_flight, 0)
    small = {name: count % SMALL_QUEUE for name, count in in_flight.items()}
    assert by_preference(model_key(id), small) == by_preference(model_key(id), idle)


def test_models_are_spread_and_few_move_to_a_new_replica() -> None:
    four = dict.fromkeys("abcd", 0)
    homes = {k: by_preference(model_key(f"shop-{k}"), four)[0] for k in range(400)}
    assert min(Counter(homes.values()).values()) > 60
    five = {**four, "e": 0}
    now = {k: by_preference(model_key(f"shop-{k}"), five)[0] for k in homes}
    moved = [k for k in homes if now[k] != homes[k]]
    assert {now[k] for k in moved} == {"e"}
    assert 40 < len(moved) < 120


def test_a_model_in_demand_is_shared_by_its_second_replica() -> None:
    key, in_flight = model_key("hot"), dict.fromkeys("abc", 0)
    for _ in range(120):
        in_flight[by_preference(key, in_flight)[0]] += 1
    first, second, third = by_preference(key, dict.fromkeys("abc", 0))
    assert in_flight[first] >= in_flight[second] >= in_flight[third] > 0
    assert in_flight[first] <= BALANCE * 40 + 1


@pytest.mark.parametrize("id", ["", "a" * 1_000_000, "\ud800", "\0"])
def test_any_text_has_a_short_key(id: str) -> None:
    assert len(model_key(id)) == 32
