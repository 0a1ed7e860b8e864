"""Docstrings taken apart, in the ways that people write them."""

import pytest

from mlkit.define.docstring import Words, words

GOOGLE = """Tag it.

More of it.

Args:
    image: the picture,
        upright.
    title: its name

Returns:
    The tags.
"""
NUMPY = """Tag it.

More of it.

Parameters
----------
image : Image
    the picture,
    upright.
title : str
    its name

Returns
-------
list
    The tags.
"""
SPHINX = """Tag it.

More of it.

:param image: the picture,
    upright.
:param title: its name
:returns: The tags.
"""


@pytest.mark.parametrize("doc", [GOOGLE, NUMPY, SPHINX])
def test_every_style_says_the_same(doc: str) -> None:
    assert words(doc) == Words(
        "Tag it.",
        "Tag it.\n\nMore of it.",
        {"image": "the picture, upright.", "title": "its name"},
        "The tags.",
    )


@pytest.mark.parametrize("doc", ["", "Only this.", "Args:", "Args:\n  :::\n x", ":param", "-\n---"])
def test_nothing_is_too_odd_to_be_read(doc: str) -> None:
    assert isinstance(words(doc).summary, str)
