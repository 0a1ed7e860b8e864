"""Figures in README and docs are those that the commands measured."""

import pytest

from tools.figures import measured, pages, render


def test_a_marked_figure_is_replaced_and_the_rest_stays() -> None:
    text = "a 12<!--demo.rate:.0f-->/s and 3.5 of 88%<!-- why -->, 1<!--demo.share:.1%-->%"
    assert render(text, {"demo": {"rate": 282.4, "share": 0.876}}) == (
        "a 282<!--demo.rate:.0f-->/s and 3.5 of 88%<!-- why -->, 87.6<!--demo.share:.1%-->%"
    )


def test_a_figure_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody"):
        render("1<!--demo.nobody:.0f-->", {"demo": {}})


def test_no_page_disagrees_with_what_was_measured(repository) -> None:
    values = measured(repository)
    for page in pages(repository):
        text = page.read_text()
        assert render(text, values) == text, f"{page.name}: make figures"
