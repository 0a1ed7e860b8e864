"""The dashboard for Grafana asks for what is exposed."""

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlkit.cli import main
from mlkit.metrics import Gatherer, Recorder, Span, Trace
from mlkit.metrics.grafana import dashboard
from mlkit.metrics.prometheus import exposition

PANELS = dashboard()["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def exposed():
    """Labels by name of all samples that an app with all kinds of steps exposes."""
    gauges = {"in_flight": 3, "queued": {"look": 2}}
    recorder = Recorder("front", front=True, gauges=lambda: gauges)
    trace = Trace("a", 0.0, 0.02, 200, 0.0, 0.02, (), 1, "")
    recorder.request(trace, 10, 5, [0.001, 0.002])
    recorder.steps([Span("look", 0, 0.001, 0.003, batch=2)])
    gatherer = Gatherer()
    delta = recorder.take()
    gatherer.push(delta)
    text = exposition(gatherer, "tag", delta["at"]).decode()
    labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_metrics_and_labels_that_are_exposed(exposed, query) -> None:
    selectors = re.findall(r"(mlkit_\w+)\{([^}]*)\}", query)
    assert selectors
    assert len(selectors) == len(re.findall(r"mlkit_\w+", query))
    for metric, matchers in selectors:
        assert metric in exposed
        assert set(re.findall(r"(\w+)=~?", matchers)) <= exposed[metric]
    for labels in re.findall(r"by \(([^)]*)\)", query):
        known = set().union(*(exposed[metric] for metric, _ in selectors))
        assert set(labels.split(", ")) <= known


@pytest.mark.parametrize("query", QUERIES)
def test_parentheses_and_braces_match(query) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert query.count(opening) == query.count(closing)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_names_labels_of_its_query(panel) -> None:
    for target in panel["targets"]:
        expression = target["expr"]
        grouped = {
            label
            for labels in re.findall(r"by \(([^)]*)\)", expression)
            for label in labels.split(", ")
        }
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= (grouped or {"stage", "replica"})


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_command_prints_it(capsys) -> None:
    assert main(["dashboard"]) == 0
    assert json.loads(capsys.readouterr().out) == dashboard()
