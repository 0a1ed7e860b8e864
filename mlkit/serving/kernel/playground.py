"""A link to the page on which an app can be tried."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["PlaygroundLink"]


@dataclass(frozen=True)
class PlaygroundLink:
    """A link that shows itself in a cell. The saved notebook has it, but it opens once only.

    Attributes:
        name: name of the app.
        url: the address, with a one-time code that is valid for a minute.
    """

    name: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return self.url

    def _repr_html_(self) -> str:
        from mlkit.views.templating import render

        return render("link.html.j2", link=self)
