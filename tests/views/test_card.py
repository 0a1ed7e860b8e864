"""The card of an app, in each of its states."""

from dataclasses import fields, replace
from datetime import datetime

import pytest

from mlkit.views import render
from mlkit.views.card import Card, State, to_html, to_text

READY = Card(
    name="tag",
    state="ready",
    url="http://127.0.0.1:8000/tag",
    routes=("POST /tag", "GET /docs"),
    steps=("decode", "look"),
    replicas=1,
    wanted=1,
    since=datetime(2026, 1, 2, 14, 3, 12),
    facts=("version 3", "one stage"),
    curl='curl -H "Authorization: Bearer $MLKIT_TOKEN" ...',
    doc="Tag one product.\n\nMore.",
    call='app("shoe.jpg")',
)
STATES: tuple[State, ...] = ("starting", "ready", "stopped", "failed")


def test_a_ready_one_says_where_it_is_and_how_to_call_it() -> None:
    assert to_text(READY).splitlines() == [
        "tag: ready since 14:03:12",
        "  url       http://127.0.0.1:8000/tag",
        "  routes    POST /tag, GET /docs",
        "  steps     decode, look",
        "  replicas  1 ready",
        "  facts     version 3; one stage",
        '  call      app("shoe.jpg")',
        '  curl      curl -H "Authorization: Bearer $MLKIT_TOKEN" ...',
    ]


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_word_and_a_sign(state: State) -> None:
    html = to_html(replace(READY, state=state))
    sign = {"starting": "◐", "ready": "●", "stopped": "○", "failed": "▲"}[state]
    assert f'<section class="card {state}"' in html
    assert f"{sign}</span> {state}" in html


@pytest.mark.parametrize("state", ["starting", "stopped", "failed"])
def test_only_a_ready_one_is_to_be_called(state: State) -> None:
    card = replace(READY, state=state)
    for text in (to_html(card), to_text(card)):
        assert "shoe.jpg" not in text
        assert "MLKIT_TOKEN" not in text


def test_replicas_that_are_missing_are_counted() -> None:
    assert "1 of 3 ready" in to_text(replace(READY, wanted=3))
    assert "0 of 1 ready" in to_text(replace(READY, state="starting", replicas=0))
    assert "replicas" not in to_text(replace(READY, state="stopped"))


def test_a_failure_says_why() -> None:
    card = replace(READY, state="failed", message="no file\n  → write it first")
    assert "no file\n  → write it first</pre>" in to_html(card)
    assert "  no file\n    → write it first" in to_text(card)


def test_the_first_line_of_the_docstring_is_enough() -> None:
    assert "Tag one product." in to_html(READY)
    assert "More." not in to_html(READY)


def test_a_bare_one_is_shown_too() -> None:
    bare = Card(name="tag", state="starting")
    assert to_text(bare) == "tag: starting"
    assert "<dl" not in to_html(bare)


def test_it_has_no_place_for_a_token() -> None:
    assert not [field.name for field in fields(Card) if "token" in field.name]


@pytest.mark.parametrize("field", ["name", "url", "curl", "doc", "call", "message"])
def test_nothing_hostile_gets_through(field: str) -> None:
    html = to_html(replace(READY, **{field: "<script>alert(1)</script>"}))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_an_error_is_shown_in_the_same_look_and_escaped() -> None:
    html = render("error.html.j2", title="<pipeline tag>", message="no\n  → <b>yes</b>")
    assert "&lt;pipeline tag&gt;" in html
    assert "no\n  → &lt;b&gt;yes&lt;/b&gt;" in html
    assert 'role="alert"' in html


def test_a_template_that_lacks_a_value_is_an_error() -> None:
    with pytest.raises(Exception, match="message"):
        render("error.html.j2", title="x")
