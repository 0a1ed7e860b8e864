"""A graph as SVG, HTML and text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlkit.define.graph import Graph, Problem
from mlkit.views.picture import SMALLEST, picture
from mlkit.views.shapes import marks
from mlkit.views.templating import render

__all__ = ["to_html", "to_svg", "to_text"]


def to_text(graph: Graph) -> str:
    """Render a graph as text: its signature, a line for each step, and its output."""
    steps = [f"  {node}{marks(node)}" for node in graph]
    return "\n".join([graph.signature, *steps, f"  return {graph.output}"])


def to_svg(
    graph: Graph,
    problems: Sequence[Problem] = (),
    *,
    down: bool = False,
    together: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """Render a graph as standalone SVG.

    Args:
        graph: the graph to draw.
        problems: problems to annotate at the nodes that they concern.
        down: whether it flows from top to bottom instead of from left to right.
        together: groups of node names to draw on a shared background, by label.
    """
    drawn = picture(graph, problems, down=down, together=together)
    return render("graph.svg.j2", picture=drawn, alone=True)


def to_html(graph: Graph, problems: Sequence[Problem] = ()) -> str:
    """Render a graph as HTML: caption, drawing, problems, and text for screen readers.

    It flows from left to right, and from top to bottom in narrow containers.
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
