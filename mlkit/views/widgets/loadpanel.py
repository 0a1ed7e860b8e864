"""A load test with controls: start, stop, and a rate that applies while it runs."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as w

from mlkit.errors import LoadError, MlkitError
from mlkit.load import LoadRun, load_test, ramp, spike, steered
from mlkit.load.arrivals import Arrivals
from mlkit.serving import App

__all__ = ["LoadPanel"]

MAX_DURATION_S = 3600.0


class LoadPanel:
    """Runs load tests in the background.

    Args:
        app: the app to send requests to.
        payloads: what to send; None for the requests that this kernel sent last.
    """

    def __init__(self, app: App, payloads: Any = None) -> None:
        self.app = app
        self.payloads = payloads
        self.run: LoadRun | None = None
        look = {
            "style": {"description_width": "118px"},
            "layout": w.Layout(width="430px", max_width="100%"),
        }
        self.rate = w.FloatLogSlider(
            value=10,
            base=10,
            min=0,
            max=3,
            step=0.02,
            readout_format=".0f",
            description="requests/s",
            **look,
        )
        self.shape = w.Dropdown(
            options=["poisson", "constant", "ramp", "spike"], description="arrivals", **look
        )
        self.duration = w.BoundedFloatText(
            value=60, min=1, max=MAX_DURATION_S, description="seconds", **look
        )
        self.start = w.Button(description="Start", icon="play", tooltip="send requests")
        self.stop = w.Button(description="Stop", icon="stop", disabled=True, tooltip="end the load")
        self.call = w.HTML()
        self.message = w.HTML()
        buttons = w.HBox([self.start, self.stop])
        self.widget: Any = w.VBox(
            [self.rate, self.shape, self.duration, self.call, buttons, self.message]
        )
        self.start.on_click(lambda _: self.begin())
        self.stop.on_click(lambda _: self.end())
        self.rate.observe(self._on_rate, "value")
        for field in (self.shape, self.duration):
            field.observe(lambda _: self._update_call(), "value")
        self._update_call()

    def arrivals(self) -> Arrivals:
        """The arrival process that is selected."""
        rate, seconds = round(self.rate.value, 1), self.duration.value
        if self.shape.value == "ramp":
            return ramp(start=max(0.1, rate / 10), end=rate)
        if self.shape.value == "spike":
            return spike(rate=max(0.1, rate / 4), peak=rate, at_s=seconds / 3, width_s=seconds / 6)
        return steered(rate=rate, shape=self.shape.value)

    def begin(self) -> None:
        """Start a load test; one that is running is stopped first."""
        self.end()
        try:
            self.run = load_test(
                self.app,
                self._payloads(),
                self.arrivals(),
                duration_s=self.duration.value,
                wait=False,
            )
        except MlkitError as error:
            self.message.value = f"<span role='alert'>▲ {escape(str(error))}</span>"
            return
        self.start.disabled, self.stop.disabled = True, False
        self.message.value = "starting"

    def _payloads(self) -> Any:
        if self.payloads is not None:
            return self.payloads
        sent = list(self.app.sent)
        if not sent:
            raise LoadError(
                "no payloads to send",
                where="load panel",
                fix="call the app once, app(...), or pass payloads: Dashboard(app, payloads=[...])",
            )
        return sent

    def end(self) -> None:
        """Stop the load test; its result is in `result`."""
        run, self.run = self.run, None
        if run is None:
            return
        try:
            self.result = run.stop()
            self.message.value = f"stopped: {len(self.result):,} requests"
        except MlkitError as error:
            self.message.value = str(error)
        self.start.disabled, self.stop.disabled = False, True

    def refresh(self) -> None:
        """Update the progress; called from the dashboard's thread."""
        run = self.run
        if run is None:
            return
        if run.done:
            self.end()
            return
        progress = run.progress
        self.message.value = (
            f"{progress.answered:,} answered, {progress.failed:,} failed, "
            f"{progress.in_flight:,} in flight"
        )

    def close(self) -> None:
        """Kill a running load test."""
        if self.run is not None:
            self.run.kill()
            self.run = None

    def _on_rate(self, change: Any) -> None:
        run = self.run
        if run is not None and not run.done and self.shape.value in ("poisson", "constant"):
            run.rate = round(change["new"], 1)
        self._update_call()

    def _update_call(self) -> None:
        duration = f"duration_s={self.duration.value:g}"
        call = f"load_test(app, payloads, {self.arrivals()!r}, {duration}, wait=False)"
        self.call.value = f"<code>{call}</code>"
