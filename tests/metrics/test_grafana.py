"""The dashboard for Grafana asks for what is exposed."""

import json
import re
from functools import cache
from typing import Any, Literal

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict, Field

from mlkit.cli import main
from mlkit.metrics import Gatherer, Recorder, Span, Trace
from mlkit.metrics.grafana import dashboard
from mlkit.metrics.prometheus import exposition

PANELS = dashboard()["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


POOL = {"hits": 3, "loads": 2, "evictions": 1, "failed": 0, "resident": 1, "bytes": 5}


@cache
def gathered():
    """Metrics of an app with all kinds of steps, and a pool of models, and when they were taken."""
    gauges = {"in_flight": 3, "queued": {'a "step"\n': 2}}
    recorder = Recorder("front", front=True, gauges=lambda: gauges)
    trace = Trace("a", 0.0, 0.02, 200, 0.0, 0.02, (), 1, "", "b" * 32)
    recorder.request(trace, 10, 5, [0.001, 0.002])
    recorder.steps([Span("look", 0, 0.001, 0.003, batch=2)])
    gatherer = Gatherer()
    delta = {**recorder.take(), "pools": [{**POOL, "budget_bytes": 9}]}
    gatherer.push(delta)
    return gatherer, delta["at"]


def all_metrics(openmetrics):
    gatherer, at = gathered()
    return exposition(gatherer, "tag", at, openmetrics=openmetrics).decode()


def samples_of(families):
    return [sample for family in families for sample in family.samples]


@pytest.fixture(scope="module")
def exposed():
    """Labels by name of all samples."""
    labels = {}
    for sample in samples_of(text_string_to_metric_families(all_metrics(False))):
        labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def test_both_formats_parse_to_the_same_samples():
    plain = samples_of(text_string_to_metric_families(all_metrics(False)))
    text = all_metrics(True)
    strict = samples_of(openmetrics.text_string_to_metric_families(text))
    assert text.endswith("# EOF\n")
    found, expected = (
        {(s.name, *sorted(s.labels.items())): s.value for s in samples}
        for samples in (strict, plain)
    )
    assert found == expected
    assert {'a "step"\n'} == {s.labels["step"] for s in strict if s.name == "mlkit_queued_requests"}


def test_queries_ask_for_exemplars_where_there_are_some():
    strict = samples_of(openmetrics.text_string_to_metric_families(all_metrics(True)))
    having = {sample.name for sample in strict if sample.exemplar is not None}
    targets = [target for panel in PANELS for target in panel["targets"]]
    asked = {
        name
        for target in targets
        if target["exemplar"]
        for name in re.findall(r"mlkit_\w+", target["expr"])
    }
    assert having == asked == {"mlkit_request_duration_seconds_bucket"}


class Strict(BaseModel):
    """A part of the model of a dashboard of Grafana, schema version 39, as far as it is used."""

    model_config = ConfigDict(extra="forbid")


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Strict):
    x: int = Field(ge=0, lt=24)
    y: int = Field(ge=0)
    w: int = Field(gt=0, le=24)
    h: int = Field(gt=0)


class Target(Strict):
    refId: str = Field(pattern=r"^[A-Z]$")  # noqa: N815
    datasource: Source
    expr: str
    legendFormat: str  # noqa: N815
    range: bool
    exemplar: bool


class Defaults(Strict):
    # Ids of `getValueFormats`: others are shown as a suffix.
    unit: Literal["Bps", "bytes", "cps", "percentunit", "reqps", "s", "short"]
    min: float


class FieldConfig(Strict):
    defaults: Defaults
    overrides: list[Any]


class Panel(Strict):
    id: int
    type: Literal["timeseries"]
    title: str
    description: str
    datasource: Source
    gridPos: Place  # noqa: N815
    fieldConfig: FieldConfig  # noqa: N815
    options: dict[str, Any]
    targets: list[Target] = Field(min_length=1)


class Variable(BaseModel):
    name: str
    type: Literal["datasource", "query"]
    query: str | dict[str, str]


class Variables(Strict):
    list: list[Variable]


class Model(Strict):
    title: str
    uid: str = Field(max_length=40)
    tags: list[str]
    schemaVersion: Literal[39]  # noqa: N815
    version: int
    editable: bool
    refresh: str
    time: dict[str, str]
    timezone: Literal["browser", "utc"]
    templating: Variables
    annotations: dict[str, list[Any]]
    panels: list[Panel]


def test_it_is_a_dashboard_of_grafanas() -> None:
    model = Model.model_validate(dashboard())
    for panel in model.panels:
        names = [target.refId for target in panel.targets]
        assert len(set(names)) == len(names)
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard())))
    assert used == {variable.name for variable in model.templating.list}


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
