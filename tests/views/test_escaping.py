"""Nothing that shows a user's or a client's text lets markup through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit import pipeline, step
from mlkit.autoscale import Scaling
from mlkit.execute import NodeRun, Run
from mlkit.metrics.compare import Disagreements
from mlkit.metrics.peek import Peek
from mlkit.metrics.pools import Pools
from mlkit.metrics.trace import Span, Trace
from mlkit.serving.control.records import AppVersion
from mlkit.serving.kernel.telemetry import Slowest
from mlkit.serving.kernel.versions import Versions
from mlkit.views import live
from mlkit.views.card import Card
from mlkit.views.card import to_html as card_html
from mlkit.views.templating import render
from mlkit.views.value import to_html
from mlkit.views.widgets.controls import _alert


@step
def same(text: str) -> str:
    return text


def _node(text: str, **changes: Any) -> NodeRun:
    return replace(NodeRun("same", "done", text, 0.0, 0.001, 0.002, 1), **changes)


def _run(text: str) -> str:
    @pipeline
    def shown(text: str = "") -> str:
        return same(text)

    good = Run(shown.graph, {"text": text}, (_node(text),), 0.002, text)
    error = ValueError(text)
    bad = replace(good, nodes=(_node(text, status="failed", error=error),), error=error)
    return good._repr_html_() + bad._repr_html_()


def _pipeline(text: str) -> str:
    def shown(title: str = text) -> str:
        return same(title)

    shown.__doc__ = text
    drawn = pipeline(shown)
    return drawn._repr_html_() + drawn.graph._repr_html_()


def _sample(text: str) -> dict[str, Any]:
    return {
        "at": 0.0,
        "id": text,
        "inputs": [[text, text, []]],
        "output": [text, []],
        "boxes": [],
        "old": [text, []],
        "new": [text, []],
        "differing": [text],
    }


def _pools(text: str) -> str:
    counts = dict.fromkeys(("hits", "loads", "evictions", "failed"), 1)
    pool = {**counts, "resident": 1, "bytes": 10, "budget_bytes": 20}
    pool["models"] = [[text, 10, "resident"]]
    deltas = [{"stage": text, "process": text, "pools": [pool]}]
    return Pools.of(text, deltas)._repr_html_()


def _scaling(text: str) -> str:
    scaling = Scaling()
    decision = {"at": 1.0, "stage": text, "kind": "up", "before": 1, "after": 2, "why": text}
    count = {"at": 1.0, "stage": text, "wanted": 2, "ready": 1, "starting": 1}
    scaling.add({"last": 1, "decisions": [decision], "counts": [count]})
    return scaling._repr_html_()


def _versions(text: str) -> str:
    made = AppVersion(
        version=text, spec=None, since=0.0, how="deployed", changed=text, deployment=1, error=text
    )
    versions = Versions([made])
    versions.states = (f"failed: {text}",)
    return versions._repr_html_()


def _slowest(text: str) -> str:
    return Slowest([Trace(text, 0.0, 0.1, 200, 0.0, 0.1, (), 1, text)])._repr_html_()


def _filled(kind: type[Any], text: str, **given: Any) -> Any:
    """An object whose fields for text have a text."""
    texts = {f.name: text for f in fields(kind) if f.type == "str"}
    return kind(**texts | given)


def _card(text: str) -> str:
    many = {"routes": (text, text), "steps": (text, text), "since": datetime(2026, 1, 2)}
    return card_html(_filled(Card, text, running=True, **many))


def _live(text: str) -> str:
    stages = (_filled(live.StageRow, text, behind=False),)
    steps = (_filled(live.StepRow, text),)
    shown = _filled(live.Live, text, state="serving", steps=steps, stages=stages, slow="")
    html: str = replace(shown, decisions=(text,))._repr_html_()
    return html


VIEWS: dict[str, Callable[[str], str]] = {
    "value": lambda text: to_html({text: [text, {"a": text}]}),
    "run": _run,
    "pipeline": _pipeline,
    "error": lambda text: render("error.html.j2", title=text, message=text),
    "trace": lambda text: Trace(
        text, 0.0, 0.1, 200, 0.0, 0.1, (Span(text, 0.0, 0.0, 0.1, stage=text),), 1, text
    )._repr_html_(),
    "slowest": lambda text: Slowest(
        [Trace(text, 0.0, 0.1, 200, 0.0, 0.1, (), 1, text)]
    )._repr_html_(),
    "peek": lambda text: Peek(text, (_sample(text),))._repr_html_(),
    "disagreements": lambda text: Disagreements(text, 3, 1, 0, (_sample(text),))._repr_html_(),
    "pools": _pools,
    "scaling": _scaling,
    "versions": _versions,
    "card": _card,
    "live": _live,
    "frame": lambda text: pd.DataFrame({text: [text]})._repr_html_(),
    "alert": _alert,
}
MARKUP = "<b-evil onevil=x>"
CLOSED = "'\"--></style></script></svg></title></textarea>"
TEXTS = st.text(st.sampled_from("a<>\"'&/=`-!\\{}%; \n")).map(
    lambda text: f"{MARKUP}{text}{CLOSED}{MARKUP}{text}"
)


class Evil(HTMLParser):
    """Finds what the texts would have made."""

    found: str = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "b-evil" or any(name == "onevil" for name, _ in attrs):
            self.found = self.get_starttag_text() or tag


def evil(html: str) -> str:
    parser = Evil()
    parser.feed(html)
    parser.close()
    return parser.found


def test_markup_that_gets_through_is_found() -> None:
    assert evil("<p>'><b-evil onevil=x>")
    assert evil('<p title="" onevil=x>')


@pytest.mark.parametrize("name", VIEWS)
def test_no_text_becomes_markup(name: str) -> None:
    view = VIEWS[name]

    @settings(max_examples=10)
    @given(TEXTS)
    def escaped(text: str) -> None:
        html = view(text)
        assert "b-evil" in html  # it is shown
        assert not evil(html)
        assert "<b-evil" not in html  # nor where HTML is not parsed, as in a style sheet

    escaped()
