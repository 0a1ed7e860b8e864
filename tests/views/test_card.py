"""The card of an app, running and shut down."""

from dataclasses import fields, replace
from datetime import datetime

import pytest

from mlkit.views.card import Card, to_html, to_text
from mlkit.views.templating import render

READY = Card(
    name="tag",
    running=True,
    url="http://127.0.0.1:8000/tag",
    routes=("POST /tag", "GET /docs"),
    steps=("decode", "look"),
    trial="",
    outdated="",
    since=datetime(2026, 1, 2, 14, 3, 12),
    curl="curl -H @/tmp/tag.header ...",
    doc="Tag one product.",
    call='app("shoe.jpg")',
)
STOPPED = replace(READY, running=False)


def test_a_ready_one_says_where_it_is_and_how_to_call_it() -> None:
    assert to_text(READY).splitlines() == [
        "tag: ready since 14:03:12",
        "  url       http://127.0.0.1:8000/tag",
        "  routes    POST /tag, GET /docs",
        "  steps     decode, look",
        '  call      app("shoe.jpg")',
        "  curl      curl -H @/tmp/tag.header ...",
    ]


def test_a_version_on_trial_is_named() -> None:
    card = replace(READY, trial="canary 0.1 of 3f2a")
    assert "  on trial  canary 0.1 of 3f2a" in to_text(card).splitlines()


def test_cells_that_have_changed_since_are_named() -> None:
    card = replace(READY, outdated="decode")
    assert any(line.startswith("  changed   decode: deploy") for line in to_text(card).splitlines())
    assert "decode: deploy again" in to_html(card)
    assert "&lt;b&gt;" in to_html(replace(READY, outdated="<b>"))


@pytest.mark.parametrize(
    ("card", "state", "sign"), [(READY, "ready", "●"), (STOPPED, "stopped", "○")]
)
def test_every_state_has_a_word_and_a_sign(card: Card, state: str, sign: str) -> None:
    html = to_html(card)
    assert f'<section class="card {state}"' in html
    assert f"{sign}</span> {state}" in html


def test_only_a_ready_one_is_to_be_called() -> None:
    for text in (to_html(STOPPED), to_text(STOPPED)):
        assert "shoe.jpg" not in text
        assert "tag.header" not in text


def test_the_docstring_is_shown() -> None:
    assert "Tag one product." in to_html(READY)


def test_it_has_no_place_for_a_token() -> None:
    assert not [field.name for field in fields(Card) if "token" in field.name]


@pytest.mark.parametrize("field", ["name", "url", "curl", "doc", "call"])
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
