"""A live dashboard of an app in a notebook cell."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import IPython.display

from mlkit.errors import InputError, entry_point
from mlkit.serving import App
from mlkit.views.live import Live
from mlkit.views.snapshot import check_window, view
from mlkit.views.widgets.controls import Controls

__all__ = ["Dashboard"]

REFRESH_INTERVAL_S = 0.5
GONE_S = 60.0
"""Refreshing ends after the session has not responded for this long."""


class Dashboard:
    """Live figures, charts, graph, tables and scaling decisions of an app, with controls below.

    As the last line of a cell it displays itself and is refreshed twice a second::

        Dashboard(app)

    The view is one output of plain HTML that is replaced in place, so a saved notebook keeps its
    last state, whatever becomes of the kernel. The controls are widgets; they disappear on `close`,
    and when the app or the kernel shuts down.

    Args:
        app: the app to display.
        window_s: time range of the charts in seconds: 60, 300 or 900. The controls change it.
        controls: whether to show controls below the view.
        payloads: what the load panel sends; None for the requests this kernel sent last.
        every_s: seconds between refreshes.

    Raises:
        InputError: not an app, or an unsupported time range.
    """

    @entry_point
    def __init__(
        self,
        app: App,
        *,
        window_s: int = 300,
        controls: bool = True,
        payloads: Any = None,
        every_s: float = REFRESH_INTERVAL_S,
    ) -> None:
        if not callable(getattr(app, "scale", None)):
            raise InputError(
                "a dashboard shows an app",
                where="Dashboard(...)",
                expected="a deployed App",
                got=type(app).__name__,
                fix="deploy the pipeline first: Dashboard(deploy(tag))",
            )
        if not 0.2 <= every_s <= 60:
            raise InputError("every_s is between 0.2 and 60", got=repr(every_s))
        self.app = app
        self.every_s = every_s
        self.payloads = payloads
        self._window_s = check_window(window_s)
        self._has_controls = controls
        self._controls: Controls | None = None
        self._displays: list[Callable[[Live], None]] = []
        self._last_html = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.view: Live = view(app, self._window_s, read=False)

    @property
    def window_s(self) -> int:
        """Time range of the charts in seconds."""
        return self._window_s

    @window_s.setter
    def window_s(self, seconds: int) -> None:
        self._window_s = check_window(seconds)

    @property
    def running(self) -> bool:
        """Whether the view is being refreshed."""
        return self._thread is not None and self._thread.is_alive()

    def look(self, *, force: bool = False) -> Live:
        """Refresh the view now; ``force`` publishes it even if nothing has changed."""
        live = view(self.app, self._window_s)
        with self._lock:
            self.view = live
            html = live.html
            if force or html != self._last_html:
                self._last_html = html
                for update in self._displays:
                    update(live)
        return live

    def close(self) -> None:
        """Stop refreshing and remove the controls; the last view stays."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        if thread is not None:
            # Published by this cell rather than by the thread: a notebook that is executed without
            # a front end records only the output of the cell that is running.
            with suppress(Exception):
                self.look(force=True)
        self._remove_controls()

    def _ipython_display_(self) -> None:
        """Display it here; another cell displays it a second time."""
        display: Any = IPython.display.display
        with suppress(Exception):  # the refresh thread retries
            self.look()
        handle = display(self.view, display_id=True)
        self._displays.append(handle.update)
        if self._has_controls and not self.app.closed:
            if self._controls is None:
                self._controls = Controls(
                    self.app,
                    window_s=self.window_s,
                    on_window=self._show_window,
                    payloads=self.payloads,
                )
            self._controls.handle = display(self._controls.widget, display_id=True)
        self._start()

    def _show_window(self, seconds: int) -> None:
        self.window_s = seconds
        self.look()

    def _remove_controls(self) -> None:
        if self._controls is not None:
            controls, self._controls = self._controls, None
            controls.close()

    def _start(self) -> None:
        if self.running or self.app.closed:
            return
        self._stop.clear()
        # IPython assigns what a thread publishes to the cell whose context it runs in.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._refresh_loop,), name="mlkit-dashboard", daemon=True
        )
        self._thread.start()

    def _refresh_loop(self) -> None:
        """Refresh all displays from one thread until the app is closed or its session is gone."""
        last_reply = time.monotonic()
        while not self._stop.wait(self.every_s):
            try:
                live = self.look()
                if self._controls is not None:
                    self._controls.refresh()
            except Exception as error:  # one failed refresh must not end the loop
                with suppress(Exception):
                    self._show_error(error)
                continue
            if not self.app._observed.gone:
                last_reply = time.monotonic()
            if live.state == "closed" or time.monotonic() - last_reply > GONE_S:
                self._remove_controls()
                return

    def _show_error(self, error: Exception) -> None:
        """Mark the view as stale: one that silently stops changing looks like an idle app."""
        words = f"not refreshed since {self.view.time}: {type(error).__name__}: {error}"
        with self._lock:
            self._last_html = ""
            for update in self._displays:
                update(replace(self.view, state="stale", words=words))

    def __repr__(self) -> str:
        return str(self.view)
