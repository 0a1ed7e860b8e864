"""The simulation that the rule for replicas and threads is tested against."""

import pytest

from benchmarks.placement import simulate, simulated


def test_one_process_is_bound_by_its_interpreter() -> None:
    # Half of 10 ms hold it: 200 requests a second, whatever the threads.
    assert simulate(8, 1, 0.5) == pytest.approx(200, rel=0.1)


def test_a_process_a_core_uses_them_all() -> None:
    assert simulate(8, 8, 0.5) == pytest.approx(800, rel=0.1)


def test_a_simulation_is_repeatable() -> None:
    assert simulate(4, 2, 0.3, seed=1) == simulate(4, 2, 0.3, seed=1)
    assert simulate(4, 2, 0.3, seed=1) != simulate(4, 2, 0.3, seed=2)


@pytest.mark.parametrize(("cores", "share"), [(8, 0.1), (8, 0.3), (16, 0.5), (16, 0.2)])
def test_the_rule_comes_near_the_best_and_its_model_near_the_simulation(
    cores: int, share: float
) -> None:
    row = simulated(cores, share)
    assert row["over_best"] > 0.85
    for replicas, rps in row["rps"].items():
        assert row["predicted_rps"][replicas] == pytest.approx(rps, rel=0.12)
