"""Values as HTML."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit import Image
from mlkit.views.value import MOST, node_of, to_html


@dataclass
class Shade:
    name: str
    hex: str


class Odd:
    def _repr_html_(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("neither")


class Kind(Enum):
    A = 1


PICTURE = Image.open(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", "text"),
        (12345, "number"),
        (0.25, "number"),
        (True, "words"),
        (None, "words"),
        (Kind.A, "words"),
        (PICTURE, "picture"),
        (PICTURE.thumbnail_png(), "picture"),
        (b"\x00\x01", "words"),
        (pd.DataFrame({"a": [1]}), "html"),
        ({"a": 1}, "fields"),
        (Shade("dark", "#000000"), "fields"),
        (["a", "b"], "chips"),
        ([Shade("dark", "#000000"), Shade("light", "#ffffff")], "rows"),
        ([PICTURE, PICTURE], "list"),
        ([], "words"),
        (np.zeros(3), "words"),
        (Odd(), "words"),
    ],
)
def test_each_kind_of_value(value, kind) -> None:
    assert node_of(value).kind == kind
    assert 'class="mlkit mlkit-value"' in to_html(value)


def test_a_colour_has_a_swatch() -> None:
    assert 'style="background: #100e90"' in to_html({"hex": "#100e90"})
    assert "background:" not in to_html({"hex": "#100e90; color: red"})


def test_much_is_cut() -> None:
    assert node_of(list(range(MOST + 5))).more == 5
    assert "… and 5 more" in to_html(dict.fromkeys(range(MOST + 5)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(JSON)
def test_any_value_is_shown_and_none_is_markup(value) -> None:
    assert to_html(value).startswith('<div class="mlkit mlkit-value">')


@settings(deadline=None)
@given(st.text(min_size=1))
def test_text_is_escaped(text) -> None:
    assert f"<script>{text}" not in to_html({"a": f"<script>{text}"})


def test_a_value_within_itself_ends() -> None:
    ring: dict[str, object] = {}
    ring["again"] = ring
    assert "again" in to_html(ring)
