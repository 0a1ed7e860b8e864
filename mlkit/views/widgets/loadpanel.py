"""A load to play with: a rate that acts while it runs, how requests arrive, start and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlkit.errors import LoadError, MlkitError
from mlkit.load import LoadRun, load_test, ramp, spike, steered

if TYPE_CHECKING:
    from mlkit.load.arrivals import Arrivals
    from mlkit.serving import App

__all__ = ["LoadPanel"]

LONGEST_S = 3600.0


class LoadPanel:
    """Sends requests to an app from a cell that has returned already."""

    def __init__(self, app: App, payloads: Any = None) -> None:
        import ipywidgets as w

        self.app = app
        self.payloads = payloads
        self.run: LoadRun | None = None
        narrow = {"description_width": "118px"}

        def wide() -> Any:
            return w.Layout(width="430px", max_width="100%")

        self.rate = w.FloatLogSlider(
            value=10,
            base=10,
            min=0,
            max=3,
            step=0.02,
            readout_format=".0f",
            description="requests/s",
            style=narrow,
            layout=wide(),
        )
        self.shape = w.Dropdown(
            options=["poisson", "constant", "ramp", "spike"],
            description="arrivals",
            style=narrow,
            layout=wide(),
        )
        self.duration = w.BoundedFloatText(
            value=60, min=1, max=LONGEST_S, description="seconds", style=narrow, layout=wide()
        )
        self.start = w.Button(description="Start", icon="play", tooltip="send requests")
        self.stop = w.Button(description="Stop", icon="stop", disabled=True, tooltip="end the load")
        self.call = w.HTML()
        self.said = w.HTML()
        self.widget: Any = w.VBox(
            [
                self.rate,
                self.shape,
                self.duration,
                self.call,
                w.HBox([self.start, self.stop]),
                self.said,
            ]
        )
        self.start.on_click(lambda _: self.begin())
        self.stop.on_click(lambda _: self.end())
        self.rate.observe(self._on_rate, "value")
        for one in (self.shape, self.duration):
            one.observe(lambda _: self._tell(), "value")
        self._tell()

    def arrivals(self) -> Arrivals:
        """How requests arrive, as the fields say."""
        rate, seconds = round(self.rate.value, 1), self.duration.value
        if self.shape.value == "ramp":
            return ramp(start=max(0.1, rate / 10), end=rate)
        if self.shape.value == "spike":
            return spike(rate=max(0.1, rate / 4), peak=rate, at_s=seconds / 3, width_s=seconds / 6)
        return steered(rate=rate, shape=self.shape.value)

    def begin(self) -> None:
        """Start the load; the one that runs is stopped first."""
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
            from html import escape

            self.said.value = f"<span role='alert'>▲ {escape(str(error))}</span>"
            return
        self.start.disabled, self.stop.disabled = True, False
        self.said.value = "starting"

    def _payloads(self) -> Any:
        """What was given, or what this kernel asked the app lately."""
        if self.payloads is not None:
            return self.payloads
        sent = list(self.app.sent)
        if not sent:
            raise LoadError(
                "there is nothing to send",
                where="load panel",
                fix="call the app once, app(...), or give payloads: Dashboard(app, payloads=[...])",
            )
        return sent

    def end(self) -> None:
        """Stop it; its result is in `result`."""
        run, self.run = self.run, None
        if run is None:
            return
        try:
            self.result = run.stop()
            self.said.value = f"stopped: {len(self.result):,} requests"
        except MlkitError as error:
            self.said.value = str(error)
        self.start.disabled, self.stop.disabled = False, True

    def refresh(self) -> None:
        """Say how it goes; from the dashboard's thread."""
        run = self.run
        if run is None:
            return
        if run.done:
            self.end()
            return
        now = run.progress
        self.said.value = (
            f"{now.answered:,} answered, {now.failed:,} failed, {now.in_flight:,} in flight"
        )

    def close(self) -> None:
        """End what runs."""
        if self.run is not None:
            self.run.kill()
            self.run = None

    def _on_rate(self, change: Any) -> None:
        run = self.run
        if run is not None and not run.done and self.shape.value in ("poisson", "constant"):
            run.rate = round(change["new"], 1)
        self._tell()

    def _tell(self) -> None:
        seconds = f"duration_s={self.duration.value:g}"
        text = f"load_test(app, payloads, {self.arrivals()!r}, {seconds}, wait=False)"
        self.call.value = f"<code>{text}</code>"
