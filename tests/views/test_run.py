"""A run as a table with a waterfall, and in words."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlkit import Pipeline
from mlkit.execute import NodeRun, Run
from mlkit.views.run import error_lines, milliseconds, to_html, to_text


def done(name: str, value: Any, ready: float, start: float, end: float, batch: int = 1) -> NodeRun:
    """A node's run with times in milliseconds."""
    return NodeRun(name, "done", value, ready / 1e3, start / 1e3, end / 1e3, batch)


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError


class BadError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.fixture
def good(tagging: Pipeline[..., Any]) -> Run:
    pixels = np.full((60, 40, 3), 99, np.uint8)
    nodes = (
        done("download", b"\xff\xd8\xff" + bytes(997), 0, 0, 1),
        done("decode", pixels, 1, 1, 4),
        done("look", [0.5], 4, 9, 21, batch=8),
        *(done(name, name, 21, 21, 22) for name in ("localise", "labels", "kind", "colours")),
        done("words", ["<b>blue</b>"], 0, 0.2, 0.3),
        done("combine", {"tags": ["dress"]}, 22, 22, 22.5),
    )
    return Run(tagging.graph, {"image": "a.jpg", "title": "t"}, nodes, 0.0225, {"tags": ["dress"]})


@pytest.fixture
def bad(tagging: Pipeline[..., Any]) -> Run:
    error = ValueError("wrong shape\n  got <3>")
    nodes = (
        NodeRun("download", "given", b"abc"),
        done("decode", Bad(), 0, 0, 2),
        NodeRun("look", "failed", None, 0.002, 0.003, 0.005, error=error),
        *(
            NodeRun(n, "not run")
            for n in ("localise", "labels", "kind", "colours", "words", "combine")
        ),
    )
    return Run(tagging.graph, {"image": Bad(), "title": "t"}, nodes, 0.005, None, error)


def row(html: str, name: str) -> str:
    """The table's row of one step."""
    (found,) = [
        r
        for r in re.findall(r"<tr.*?</tr>", html, re.S)
        if re.search(rf">(?:<[^>]*>.</span> )?{name}</", r)
    ]
    return found


def test_the_text_has_a_line_for_each_step(good: Run) -> None:
    assert to_text(good).splitlines()[:5] == [
        "run of tag: done in 22 ms",
        "  step           ms   waited  batch  value",
        "  download      1.0                  bytes, 1 kB, JPEG",
        "  decode        3.0                  uint8 [60, 40, 3] all 99",
        "  look           12      5.0      8  [0.5]",
    ]
    assert to_text(good).splitlines()[-1] == "  returned {'tags': ['dress']}"
    assert str(good) == to_text(good)


def test_the_text_of_a_failure_says_where_and_what(bad: Run) -> None:
    lines = to_text(bad).splitlines()
    assert lines[0] == "run of tag: ended in step look after 5.0 ms"
    assert "ValueError: wrong shape" in to_text(bad)
    assert any(line.split() == ["words", "(not", "run)"] for line in lines)
    assert any(line.startswith("  download") and "(given) bytes" in line for line in lines)
    assert "returned" not in to_text(bad)


def test_bars_stand_where_the_time_went(good: Run) -> None:
    look = row(to_html(good), "look")
    waiting, running = re.findall(r'class="(\w+)" x="([\d.]+)%" y="3" width="([\d.]+)%"', look)
    assert (waiting[0], running[0]) == ("waiting", "running")
    assert float(waiting[1]) == pytest.approx(4 / 22.5 * 100, abs=0.1)
    assert float(waiting[2]) == pytest.approx(5 / 22.5 * 100, abs=0.1)
    assert float(running[1]) == pytest.approx(9 / 22.5 * 100, abs=0.1)
    assert float(running[2]) == pytest.approx(12 / 22.5 * 100, abs=0.1)
    assert "look: from 9.0 to 21.0 ms, after waiting 5.0 ms" in look


def test_a_step_that_did_not_wait_has_one_bar(good: Run) -> None:
    html = row(to_html(good), "decode")
    assert "running" in html
    assert "waiting" not in html


def test_values_are_shown_with_thumbnails(good: Run) -> None:
    html = to_html(good)
    assert '<img src="data:image/jpeg;base64,' in row(html, "decode")
    assert ">8<" in row(html, "look")
    assert "22 ms" in html


def test_values_are_escaped(good: Run) -> None:
    html = to_html(good)
    assert "<b>blue" not in html
    assert "&lt;b&gt;blue" in html


def test_a_failed_step_shows_its_error(bad: Run) -> None:
    look = row(to_html(bad), "look")
    assert "ValueError: wrong shape\n  got &lt;3&gt;</pre>" in look
    assert 'class="failed"' in look
    assert "▲" in look


def test_what_did_not_run_and_what_was_given_say_so(bad: Run) -> None:
    html = to_html(bad)
    assert '<span class="word">not run</span>' in row(html, "words")
    assert "running" not in row(html, "words")
    assert '<span class="word">given</span>' in row(html, "download")
    assert "returned" not in html


def test_an_arm_that_was_not_chosen_took_no_time(good: Run) -> None:
    run = replace(good, nodes=(*good.nodes[:-1], NodeRun("combine", "skipped")))
    assert '<span class="word">skipped</span>' in row(to_html(run), "combine")
    assert "running" not in row(to_html(run), "combine")
    assert to_text(run).splitlines()[-2].split() == ["combine", "(skipped)"]


def test_a_value_that_cannot_be_shown_breaks_nothing(bad: Run) -> None:
    assert "Bad, cannot be shown" in row(to_html(bad), "decode")


def test_an_interrupt_is_told_apart_from_a_failure(tagging: Pipeline[..., Any]) -> None:
    nodes = tuple(NodeRun(node.name, "not run") for node in tagging.graph)
    run = Run(tagging.graph, {}, nodes, 0.5, None, KeyboardInterrupt())
    assert to_text(run).splitlines()[0] == "run of tag: ended after 500 ms"
    assert "KeyboardInterrupt" in to_html(run)


def test_a_run_of_no_time_at_all_is_drawn() -> None:
    from mlkit import pipeline

    @pipeline
    def same(x: int) -> int:
        return x

    run = Run(same.graph, {"x": 1}, (), 0.0, 1)
    assert "done in 0 ms" in to_text(run)
    assert "<table" in to_html(run)


def test_it_runs_no_script_and_asks_for_nothing(good: Run) -> None:
    html = to_html(good)
    assert not re.search(r"<script|<link|@import|url\(|\son\w+=|https?://(?!www\.w3)", html)


def test_a_real_run_is_shown(chain: Any) -> None:
    pipeline = chain("first", "second")
    run = pipeline.run("hello")
    assert "returned 'hello'" in str(run)
    assert "hello" in row(run._repr_html_(), "second")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.00004, "0.04"),
        (0.0023, "2.3"),
        (0.0099, "9.9"),
        (0.00999, "10"),
        (0.048, "48"),
        (1.24, "1,240"),
    ],
)
def test_milliseconds_have_the_digits_they_are_good_for(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_errors_say_what_they_can() -> None:
    assert error_lines(ValueError()) == ("ValueError",)
    assert error_lines(BadError()) == ("BadError, whose message cannot be shown",)
    long = error_lines(ValueError("\n".join(map(str, range(50)))))
    assert len(long) == 6
    assert long[-1] == "…"
    assert max(map(len, error_lines(ValueError("x" * 5000)))) == 200


@pytest.mark.parametrize("total", [0.00001, 0.0004, 0.0225, 0.1, 1.0, 2.31, 77.0])
def test_the_axis_has_a_few_round_numbers(tagging: Pipeline[..., Any], total: float) -> None:
    nodes = (done("decode", 1, 0, 0, total * 1e3),)
    head = re.search(r"<thead>.*?</thead>", to_html(Run(tagging.graph, {}, nodes, total)), re.S)
    assert head is not None
    ticks = re.findall(r'<text x="([\d.]+)%"[^>]*>([\d.,]*)</text>', head[0])
    assert 3 <= len(ticks) <= 6
    for x, text in ticks:
        if text:
            share = float(text.replace(",", "")) / (total * 1e3) * 100
            assert share == pytest.approx(float(x), abs=0.01)
