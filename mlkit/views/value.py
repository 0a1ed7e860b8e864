"""A value as HTML: an image, a table, or its fields; never raises, whatever a value does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mlkit.media.dataurl import to_data_url
from mlkit.media.preview import field_names, has_fields, words
from mlkit.views.templating import render

__all__ = ["ValueNode", "node_of", "to_html"]

MOST = 100
"""How many items of a list or a mapping are shown."""

_LARGEST = 1024  # pixels of a picture's longer side
_DEPTH = 4
_FIELDS = 6  # at most on one line
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_PICTURES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
}


@dataclass(frozen=True)
class ValueNode:
    """A value, or a part of one, as it is shown.

    Attributes:
        kind: "text", "number", "words", "picture", "html", "fields", "rows", "chips" or "list".
        text: the value in words; the caption of a picture.
        html: what the value shows of itself.
        uri: ``data:`` URL of a picture.
        names: of the fields, or of the columns of rows.
        parts: values of fields, or items.
        rows: items with the same fields.
        more: how many items are left out.
    """

    kind: str
    text: str = ""
    html: str = ""
    uri: str = ""
    names: tuple[str, ...] = ()
    parts: tuple[ValueNode, ...] = ()
    rows: tuple[tuple[ValueNode, ...], ...] = ()
    more: int = 0

    @property
    def plain(self) -> bool:
        """Whether it takes one line."""
        return self.kind in ("number", "text", "words") and len(self.text) <= 60

    @property
    def line(self) -> bool:
        """Whether its fields take one line."""
        return 0 < len(self.parts) <= _FIELDS and all(part.plain for part in self.parts)

    @property
    def colour(self) -> str:
        """The colour that it names in hexadecimal notation; "" if it is something else."""
        return self.text if _COLOUR.fullmatch(self.text) else ""


def to_html(value: Any) -> str:
    """Render a value."""
    return render("value.html.j2", node=node_of(value))


def node_of(value: Any, depth: int = 0) -> ValueNode:
    """Describe how a value is shown."""
    try:
        return _itself(value) or _node(value, depth)
    except Exception:  # of a property or a `_repr_html_` of the user's
        return ValueNode("words", words(value))


def _itself(value: Any) -> ValueNode | None:
    """The rich representation of a value, by the order of precedence of IPython."""
    if isinstance(value, type):
        return None
    if callable(show := getattr(value, "_repr_html_", None)) and isinstance(html := show(), str):
        return ValueNode("html", words(value), html=html)
    if callable(draw := getattr(value, "thumbnail_png", None)):
        return _picture(draw(_LARGEST), "image/png", value)
    for name, kind in (("_repr_png_", "image/png"), ("_repr_jpeg_", "image/jpeg")):
        if callable(draw := getattr(value, name, None)) and isinstance(data := draw(), bytes):
            return _picture(data, kind, value)
    return None


def _picture(data: bytes, kind: str, value: Any) -> ValueNode:
    return ValueNode("picture", words(value), uri=to_data_url(data, kind))


def _node(value: Any, depth: int) -> ValueNode:
    match value:
        case str():
            return ValueNode("text", value)
        case bool() | None:
            return ValueNode("words", str(value).lower() if value is not None else "none")
        case int():
            return ValueNode("number", f"{value:,}")
        case float():
            return ValueNode("number", f"{value:,.6g}")
        case bytes():
            kind = next((k for magic, k in _PICTURES.items() if value.startswith(magic)), None)
            return (
                ValueNode("words", words(value)) if kind is None else _picture(value, kind, value)
            )
    if depth < _DEPTH:
        if isinstance(value, Mapping):
            return _fields(value.items(), len(value), depth)
        if has_fields(value):
            names = list(field_names(value))
            return _fields(((n, getattr(value, n, None)) for n in names), len(names), depth)
        if type(value) in (list, tuple, set, frozenset):
            return _series(list(value), depth)
    return ValueNode("words", words(value))


def _fields(pairs: Iterable[tuple[Any, Any]], count: int, depth: int) -> ValueNode:
    shown = list(islice(pairs, MOST))
    names = tuple(str(name) for name, _ in shown)
    parts = tuple(node_of(value, depth + 1) for _, value in shown)
    return ValueNode("fields", names=names, parts=parts, more=count - len(shown))


def _series(items: list[Any], depth: int) -> ValueNode:
    if not items:
        return ValueNode("words", "empty")
    parts = tuple(node_of(item, depth + 1) for item in items[:MOST])
    more = len(items) - len(parts)
    if all(part.plain for part in parts):
        return ValueNode("chips", parts=parts, more=more)
    names = parts[0].names
    if all(part.names == names and _flat(part) for part in parts):
        return ValueNode("rows", names=names, rows=tuple(p.parts for p in parts), more=more)
    return ValueNode("list", parts=parts, more=more)


def _flat(part: ValueNode) -> bool:
    return part.kind == "fields" and not part.more and all(_inline(cell) for cell in part.parts)


def _inline(cell: ValueNode) -> bool:
    return cell.plain or cell.kind in ("chips", "text")
