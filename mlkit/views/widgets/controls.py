"""Controls of a running app: each shows the Python call that it makes on Apply."""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as w

from mlkit.define.step import BatchedStep
from mlkit.errors import MlkitError
from mlkit.metrics import WINDOWS
from mlkit.serving import App
from mlkit.views.widgets.loadpanel import LoadPanel

__all__ = ["Controls", "call_of"]

MAX_REPLICAS = 16
MAX_BATCH_SIZE = 64


def call_of(name: str, options: dict[str, Any]) -> str:
    """Write the `App.scale` call for some options."""
    parts = [repr(name), *(f"{key}={value!r}" for key, value in options.items())]
    return f"app.scale({', '.join(parts)})"


class Controls:
    """Sliders and fields for the options of `App.scale`, and a load panel.

    Args:
        app: the app to control.
        window_s: initial time range of the dashboard's charts, in seconds.
        on_window: is called with the time range that the user selects.
        payloads: what the load panel sends; see `LoadPanel`.
    """

    def __init__(
        self, app: App, *, window_s: int, on_window: Callable[[int], None], payloads: Any = None
    ) -> None:
        self.app = app
        self.handle: Any = None
        self._lock = threading.Lock()
        self._busy = False
        plan = app.plan
        narrow = {"description_width": "118px"}

        def wide() -> Any:  # one per widget: they are shown and hidden separately
            return w.Layout(width="430px", max_width="100%")

        self.window = w.ToggleButtons(
            options=[(f"{s // 60} min", s) for s in WINDOWS],
            value=window_s,
            style={"button_width": "80px"},
        )
        self.window.observe(lambda change: on_window(change["new"]), "value")
        self.stage = w.Dropdown(
            options=[stage.name for stage in plan.stages],
            description="stage",
            style=narrow,
            layout=wide(),
        )
        self.autoscale = w.Checkbox(description="autoscale", indent=False)
        self.replicas = w.IntSlider(
            min=1, max=MAX_REPLICAS, description="replicas", style=narrow, layout=wide()
        )
        self.bounds = w.IntRangeSlider(
            min=0, max=MAX_REPLICAS, description="min, max", style=narrow, layout=wide()
        )
        self.target = w.BoundedFloatText(
            min=0.1, max=1000, step=0.5, description="target ongoing", style=narrow, layout=wide()
        )
        self.max_ongoing = w.BoundedIntText(
            min=1, max=100_000, description="max ongoing", style=narrow, layout=wide()
        )
        batched = [n.name for n in plan.graph if isinstance(n.step, BatchedStep)]
        self.step = w.Dropdown(options=batched, description="step", style=narrow, layout=wide())
        self.batch_size = w.IntSlider(
            min=1, max=MAX_BATCH_SIZE, description="max batch size", style=narrow, layout=wide()
        )
        self.call = w.HTML()
        self.message = w.HTML()
        self.apply = w.Button(description="Apply", button_style="primary", tooltip="make the call")
        self.batch_call = w.HTML()
        self.apply_batch = w.Button(description="Apply", button_style="primary")
        self.load = LoadPanel(app, payloads)
        for field in (self.autoscale, self.replicas, self.bounds, self.target, self.max_ongoing):
            field.observe(lambda _: self._update_call(), "value")
        self.step.observe(lambda _: self._reset_batch(), "value")
        self.batch_size.observe(lambda _: self._update_batch_call(), "value")
        self.stage.observe(lambda _: self._reset_stage(), "value")
        self.apply.on_click(lambda _: self._scale(self.stage.value, self.options()))
        self.apply_batch.on_click(
            lambda _: self._scale(self.step.value, {"max_batch_size": self.batch_size.value})
        )
        fields = [self.stage, self.autoscale, self.replicas, self.bounds, self.target]
        tabs = {"scale": w.VBox([*fields, self.max_ongoing, self.call, self.apply])}
        if batched:
            tabs["batches"] = w.VBox(
                [self.step, self.batch_size, self.batch_call, self.apply_batch]
            )
        tabs["load"] = self.load.widget
        self.widget: Any = w.VBox(
            [
                self.window,
                w.Tab(children=list(tabs.values()), titles=list(tabs)),
                self.message,
            ],
            layout=w.Layout(max_width="840px"),
        )
        self._reset_stage()
        self._reset_batch()

    # ---- options ----------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Options of the selected stage that differ from its current ones."""
        stage = self.app.plan[self.stage.value]
        config = stage.autoscaling_config
        options: dict[str, Any] = {}
        if self.autoscale.value:
            least, most = self.bounds.value
            selected = {
                "min_replicas": least,
                "max_replicas": max(1, most),
                "target_ongoing_requests": self.target.value,
            }
            current = dict(config or {})
            current.setdefault("target_ongoing_requests", 2.0)
            options = {k: v for k, v in selected.items() if config is None or current.get(k) != v}
        elif config is not None or stage.num_replicas != self.replicas.value:
            options = {"num_replicas": self.replicas.value}
        if self.max_ongoing.value != self._max_ongoing():
            options["max_ongoing_requests"] = self.max_ongoing.value
        return options

    def _max_ongoing(self) -> int:
        stage = self.app.plan[self.stage.value]
        limit: int = self.app.limits.max_ongoing_requests
        return limit if stage.front else int(stage.options.get("max_ongoing_requests", 2 * limit))

    def _batch_size(self) -> int:
        node = self.app.graph[self.step.value]
        default = getattr(node.step, "max_batch_size", None) or 1
        return self.app.batch_sizes.get(self.step.value, default)

    def _scale(self, name: str, options: dict[str, Any]) -> None:
        """Make the call and report its changes; the dashboard is refreshed meanwhile."""
        with self._lock:
            if self._busy or not options:
                return
            self._busy = True
        self.apply.disabled = self.apply_batch.disabled = True
        self.message.value = _quiet(f"{call_of(name, options)} …")
        try:
            changes = self.app.scale(name, **options)
        except MlkitError as error:
            self.message.value = _alert(str(error))
        else:
            words = [f"{c.stage}: {c.action}, {c.why}" for c in changes if c.action != "kept"]
            self.message.value = _quiet("; ".join(words) or "nothing changed")
        finally:
            self._busy = False
            self._reset_stage()
            self._reset_batch()

    # ---- fields -----------------------------------------------------------------------------

    def _reset_stage(self) -> None:
        """Set the fields to the stage's current options."""
        stage = self.app.plan[self.stage.value]
        config = stage.autoscaling_config or {}
        self.autoscale.value = bool(config)
        self.replicas.value = stage.num_replicas or 1
        least = config.get("min_replicas", 1)
        self.bounds.value = (least, config.get("max_replicas", max(2, least)))
        self.target.value = config.get("target_ongoing_requests", 2.0)
        self.max_ongoing.value = self._max_ongoing()
        self._update_call()

    def _update_call(self) -> None:
        _show(self.replicas, not self.autoscale.value)
        _show(self.bounds, self.autoscale.value)
        _show(self.target, self.autoscale.value)
        options = self.options()
        self.apply.disabled = not options
        self.call.value = _code(call_of(self.stage.value, options) if options else "no changes")

    def _reset_batch(self) -> None:
        """Set the field to the step's current batch size."""
        if self.step.value:
            self.batch_size.value = self._batch_size()
            self._update_batch_call()

    def _update_batch_call(self) -> None:
        unchanged = self.batch_size.value == self._batch_size()
        self.apply_batch.disabled = unchanged
        options = {"max_batch_size": self.batch_size.value}
        self.batch_call.value = _code(
            "no changes" if unchanged else call_of(self.step.value, options)
        )

    def refresh(self) -> None:
        """Update the progress of the load; called from the dashboard's thread."""
        self.load.refresh()

    def close(self) -> None:
        """Remove the controls and stop a running load."""
        self.load.close()
        if self.handle is not None:
            self.handle.update({"text/plain": "", "text/html": ""}, raw=True)
        self.widget.close()


def _show(widget: Any, visible: bool) -> None:
    widget.layout.display = "" if visible else "none"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _quiet(text: str) -> str:
    return f"<span style='color: var(--jp-ui-font-color2)'>{escape(text)}</span>"


def _alert(text: str) -> str:
    lines = escape(text).replace("\n", "<br>")
    return f"<span role='alert'>▲ {lines}</span>"
