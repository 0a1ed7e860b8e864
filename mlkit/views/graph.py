"""A graph as a picture, and as the text that says the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlkit.define.graph import Graph, Problem
from mlkit.views.picture import SMALLEST, picture
from mlkit.views.shapes import marks
from mlkit.views.templating import render

__all__ = ["to_html", "to_svg", "to_text"]


def to_text(graph: Graph) -> str:
    """The graph in words: how it is called, a line for each step, what it returns."""
    steps = [f"  {node}{marks(node)}" for node in graph]
    return "\n".join([graph.signature, *steps, f"  return {graph.output}"])


def to_svg(
    graph: Graph,
    problems: Sequence[Problem] = (),
    *,
    down: bool = False,
    together: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """The graph as an SVG that stands alone.

    Args:
        graph: what is drawn.
        problems: what is wrong with it; those that concern a node are marked and said there.
        down: from top to bottom instead of from left to right.
        together: names of nodes that share a tinted ground, by what is written there.
    """
    drawn = picture(graph, problems, down=down, together=together)
    return render("graph.svg.j2", picture=drawn, alone=True)


def to_html(graph: Graph, problems: Sequence[Problem] = ()) -> str:
    """The graph as HTML: caption, picture, every problem, and the text for who sees no picture.

    It runs from left to right where that can be read, and from top to bottom where it is narrow.
    """
    wide, tall = picture(graph, problems), picture(graph, problems, down=True)
    return render(
        "graph.html.j2",
        name=graph.name,
        caption=graph.doc.strip().split("\n")[0],
        wide=wide,
        tall=tall,
        turn=round(wide.width * SMALLEST),
        problems=problems,
        text=to_text(graph),
    )
