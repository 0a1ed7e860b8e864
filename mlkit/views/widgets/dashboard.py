"""A live view of an app in a cell."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlkit.errors import InputError
from mlkit.views.live import Live
from mlkit.views.snapshot import check_window, view

if TYPE_CHECKING:
    from mlkit.serving import App

__all__ = ["Dashboard"]

EVERY_S = 0.5
GONE_S = 60.0
"""As long without news a session that is gone is waited for before the pump stops."""


class Dashboard:
    """An app, live: figures, charts, the graph with its rates, tables, and what was decided.

    As the last line of a cell it shows itself, twice a second anew, and below it controls::

        Dashboard(app)

    What is shown is one output of plain HTML that is replaced; the notebook that is saved holds the
    last state of it, wherever it is opened and whatever became of the kernel. The controls are
    widgets: `close`, the app's end and the kernel's end take them away.

    Args:
        app: what is shown.
        window_s: seconds that the charts show: 60, 300 or 900; the controls change it.
        controls: whether to show controls below.
        payloads: what the load of the controls sends; what this kernel asked the app lately, if
            None.
        every_s: seconds from one look to the next.
    """

    def __init__(
        self,
        app: App,
        *,
        window_s: int = 300,
        controls: bool = True,
        payloads: Any = None,
        every_s: float = EVERY_S,
    ) -> None:
        if not 0.2 <= every_s <= 60:
            raise InputError("every_s is between 0.2 and 60", got=repr(every_s))
        self.app = app
        self.every_s = every_s
        self.payloads = payloads
        self._window_s = check_window(window_s)
        self._controlled = controls
        self._controls: Any = None
        self._shown: list[Callable[[Live], None]] = []
        self._last = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.view: Live = view(app, self._window_s, read=False)

    @property
    def window_s(self) -> int:
        """Seconds that the charts show."""
        return self._window_s

    @window_s.setter
    def window_s(self, seconds: int) -> None:
        self._window_s = check_window(seconds)

    @property
    def running(self) -> bool:
        """Whether it is kept up to date."""
        return self._thread is not None and self._thread.is_alive()

    def look(self, *, again: bool = False) -> Live:
        """Bring it up to date now; ``again`` shows it though nothing has changed."""
        shown = view(self.app, self._window_s)
        with self._lock:
            self.view = shown
            text = shown.html
            if again or text != self._last:
                self._last = text
                for show in self._shown:
                    show(shown)
        return shown

    def close(self) -> None:
        """Stop; what was shown last stays, the controls go."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        if thread is not None:
            # From here, and not from the thread: who runs a notebook without a page takes up only
            # what is published by the cell that runs.
            with suppress(Exception):
                self.look(again=True)
        self._drop_controls()

    def _ipython_display_(self) -> None:
        """Show it here; a second cell shows it a second time."""
        from IPython.display import display

        show: Any = display

        with suppress(Exception):  # what cannot be had now is shown as soon as it can
            self.look()
        handle = show(self.view, display_id=True)
        self._shown.append(handle.update)
        if self._controlled and not self.app.closed:
            self._show_controls()
        self._start()

    def _show_controls(self) -> None:
        from IPython.display import display

        show: Any = display

        from mlkit.views.widgets.controls import Controls

        if self._controls is None:
            self._controls = Controls(self)
        self._controls.handle = show(self._controls.widget, display_id=True)

    def _drop_controls(self) -> None:
        if self._controls is not None:
            controls, self._controls = self._controls, None
            controls.close()

    def _start(self) -> None:
        if self.running or self.app.closed:
            return
        self._stop.clear()
        # What a thread publishes belongs to the cell whose context it runs in.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._pump,), name="mlkit-dashboard", daemon=True
        )
        self._thread.start()

    def _pump(self) -> None:
        """Look again and again; one thread for all places where it is shown."""
        last_news = time.monotonic()
        while not self._stop.wait(self.every_s):
            try:
                shown = self.look()
                if self._controls is not None:
                    self._controls.refresh(shown)
            except Exception as error:  # a look that fails must not end the others
                with suppress(Exception):
                    self._complain(error)
                continue
            if not self.app._observed.gone:
                last_news = time.monotonic()
            if shown.state == "closed" or time.monotonic() - last_news > GONE_S:
                self._drop_controls()
                return

    def _complain(self, error: Exception) -> None:
        """Say that what is shown is old, and why: a picture that stands still looks like calm."""
        words = f"not brought up to date since {self.view.time}: {type(error).__name__}: {error}"
        with self._lock:
            self._last = ""
            for show in self._shown:
                show(replace(self.view, state="stale", words=words))

    def __repr__(self) -> str:
        return str(self.view)
