"""The plot of scaling: replicas that scale, and those that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlkit.autoscale import Decision, Scaling
from mlkit.errors import InputError
from mlkit.metrics import History, Recorder, Trace
from mlkit.views.mpl.scaling import plot_scaling

NOW = 1_700_000_000.0


def scaling(counts: list[tuple[float, int, int]], decisions: list[Decision]) -> Scaling:
    """A minute of metrics of one replica, with counts and decisions of it."""
    history, clock = History(), [NOW - 60]
    recorder = Recorder("shop", front=True, now=lambda: clock[0])
    while clock[0] < NOW:
        clock[0] += 0.5
        recorder.request(Trace("a", clock[0], 0.02, 200, 0.0, 0.02, (), 1), 10, 20)
        history.add([recorder.take()])
    made = Scaling(history)
    counts_of = [{"at": at, "stage": "shop", "wanted": w, "ready": r} for at, w, r in counts]
    made.add({"decisions": [d.to_dict() for d in decisions], "counts": counts_of})
    return made


def drawn(figure: Any) -> tuple[list[float], list[float]]:
    """Times and numbers of the replicas that are ready, as drawn."""
    times, ready = figure.axes[1].lines[0].get_data()
    return list(np.asarray(times)), list(np.asarray(ready))


@pytest.mark.parametrize("counts", [[], [(NOW - 2, 1, 1)]])
def test_a_fixed_replica_is_there_from_its_first_metrics_on(counts: Any) -> None:
    figure = plot_scaling(scaling(counts, []), None, None)
    times, ready = drawn(figure)
    assert times[0] < 2
    assert set(ready) == {1}
    assert figure.get_suptitle() == "shop: replicas"


def test_a_decision_makes_it_a_plot_of_scaling() -> None:
    made = scaling(
        [(NOW - 60, 1, 1), (NOW - 20, 3, 3)],
        [Decision(NOW - 20, "shop", "scaled", 1, 3, "because")],
    )
    figure = plot_scaling(made, None, None)
    assert figure.get_suptitle() == "shop: scaling"
    assert set(drawn(figure)[1]) == {1, 3}


def test_without_metrics_there_is_nothing_to_plot() -> None:
    with pytest.raises(InputError, match="nothing to plot yet"):
        plot_scaling(Scaling(History()), None, None)
    with pytest.raises(InputError, match="no stage 'models'"):
        plot_scaling(scaling([], []), "models", None)
