"""`App`: a deployed pipeline."""

from __future__ import annotations

from contextlib import suppress

from mlkit.errors import SessionError, entry_point
from mlkit.serving.kernel.calling import Calling
from mlkit.serving.kernel.changing import Changing
from mlkit.serving.kernel.grpc import AppGateway
from mlkit.serving.kernel.observing import Observing
from mlkit.serving.kernel.status import Snapshot

__all__ = ["App"]


class App(Calling, Changing, Observing):
    """A deployed pipeline. Call it like the pipeline; each call is an HTTP request.

    Attributes:
        name: the pipeline's name.
        graph: the pipeline's graph.
        url: URL for POST requests.
        token: bearer token for ``Authorization``; None if none is required.
        tokens: further tokens, which can be revoked, with scopes and rates.
    """

    @property
    def grpc_address(self) -> str | None:
        """``HOST:PORT`` for clients of gRPC; None unless it was deployed with ``grpc=True``."""
        return AppGateway(self.session.folder, self.name).address

    @entry_point
    def view(self, window_s: int | None = None) -> Snapshot:
        """Return a static dashboard: figures, charts, graph and tables.

        It displays itself in a cell; ``.html``, ``.svg`` and ``str()`` export it. After a
        shutdown, it shows the last state that was read.

        Args:
            window_s: time range of the charts in seconds: 60, 300 or 900; by default the shortest
                that has all requests of the last 15 minutes.
        """
        from mlkit.views.snapshot import view

        return view(self, window_s)

    def shutdown(self) -> None:
        """Delete the app; other apps of the session remain. Repeated calls have no effect.

        With the last app, Ray and Serve stop, in the background: the prompt returns at once.
        """
        if self.closed:
            return
        self._sender.close()
        AppGateway(self.session.folder, self.name).stop()
        with suppress(SessionError):  # it has ended already
            self.session.delete(self.name)

    def __enter__(self) -> App:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "shut down" if self.closed else f"at {self.url}"
        changed = self.outdated
        note = f"; changed since it was deployed: {', '.join(changed)}" if changed else ""
        return f"<app {self.name} {state}{note}>"

    def __str__(self) -> str:
        from mlkit.views.card import card_of, to_text

        return to_text(card_of(self))

    def _repr_html_(self) -> str:
        from mlkit.views.card import card_of, to_html

        return to_html(card_of(self))
