import subprocess
import sys

import numpy as np
import pytest

from mlkit.load import closed, constant, poisson
from mlkit.load.records import ClientCost
from mlkit.views.mpl.load import plot_load

CASES = {
    "plain": {},
    "slo": {"slo_ms": 150, "arrivals": poisson(rate=300)},
    "missed": {"slo_ms": 20},
    "failures": {"failed": 0.03, "slo_ms": 200},
    "nothing but failures": {"failed": 1.1, "duration_s": 5.0, "slo_ms": 150},
    "void": {"late_ms": 9.0, "failed": 0.02},
    "streams": {"items": 20},
    "failed streams": {"items": 5, "failed": 0.3, "slo_ms": 50},
    "one item": {"items": 1},
    "few": {"arrivals": constant(rate=10), "duration_s": 3.0, "slo_ms": 100},
    "one": {"arrivals": constant(rate=1), "duration_s": 1.0},
    "none": {"arrivals": poisson(rate=0.01), "duration_s": 1.0},
    "slow": {"typical_ms": 2500.0, "duration_s": 8.0, "interrupted": True},
    "fast": {"typical_ms": 0.6, "arrivals": poisson(rate=3000)},
    "closed": {"arrivals": closed(concurrency=16), "count": 7000},
    "long target": {"target": "http://inference.internal.example:8443/" + "path/" * 30},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def any_result(request, load_result):
    return load_result(**request.param)


def test_no_words_overlap_or_leave_the_picture(any_result, words_of, overlapping):
    figure = plot_load(any_result)
    assert overlapping(figure) == []
    width, height = figure.get_size_inches() * figure.dpi
    assert width == 720
    for words, box in words_of(figure):
        assert box.x0 >= 0, words
        assert box.x1 <= width, words
        assert box.y0 >= 0, words
        assert box.y1 <= height, words


def texts(words_of, result):
    return " | ".join(words for words, _ in words_of(plot_load(result)))


def test_the_numbers_that_matter_are_written_out(load_result, words_of):
    result = load_result(poisson(rate=300, seed=2), slo_ms=150)
    shown = texts(words_of, result)
    for words in (
        "poisson(rate=300, seed=2)",
        "http://127.0.0.1:8000/tag",
        f"{len(result):,} samples",
        "p50  30 ms",
        "SLO: p99 under 150 ms, met",
        "client took 0.07 cores",
        f"throughput\n{result.ok_rate:.0f}/s",
    ):
        assert words in shown


def test_a_void_result_has_it_written_across_with_its_reasons(load_result, words_of):
    result = load_result(late_ms=9.0)
    figure = plot_load(result)
    across = [t for t in figure.texts if t.get_text() == "VOID"]
    assert across[0].get_fontsize() > 100
    assert "▲ Void: requests left late" in texts(words_of, result)


def test_the_reasons_of_a_void_result_fit_however_many(load_result, words_of):
    crowded = ClientCost(19.5, 20, 2000, 2000, 4321, "Too many open files")
    figure = plot_load(load_result(late_ms=9.0, client=crowded))
    assert all(box.x1 <= 720 for _, box in words_of(figure))


def test_failures_and_what_is_not_proven_are_named(load_result, words_of):
    result = load_result(failed=0.03)
    shown = texts(words_of, result)
    assert "failed (hatched)" in shown
    assert f"{100 * (1 - result.ok.mean()):.1f}% failed" in shown
    assert "p99  never" in shown
    assert "grey: too few requests" in shown


def test_the_curve_is_the_raw_records(load_result):
    result = load_result(duration_s=5.0)
    curve = plot_load(result).axes[2].lines[0]
    drawn = np.sort(result.latency_ms)
    assert np.array_equal(curve.get_ydata()[1:], drawn)
    for percentile in result.percentiles.values():
        at = np.searchsorted(curve.get_xdata(), -np.log10(1 - percentile.share) - 1e-9)
        assert curve.get_ydata()[at] == percentile.value_ms


def test_a_result_without_requests_says_so(load_result, words_of):
    result = load_result(poisson(rate=0.01), duration_s=1.0)
    assert "no requests were measured" in texts(words_of, result)


def test_plotting_leaves_no_figure_open_and_no_style_behind(load_result):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    load_result().plot()
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_imported_only_when_something_is_plotted():
    modules = "mlkit.load, mlkit.views.load, mlkit.views.widgets"
    code = f"import {modules}, sys; print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
