"""Controls of a running app: each shows the call that it makes, and makes it on Apply."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mlkit.define.step import BatchedStep
from mlkit.errors import MlkitError
from mlkit.metrics import WINDOWS
from mlkit.views.widgets.loadpanel import LoadPanel

if TYPE_CHECKING:
    from mlkit.views.live import Live
    from mlkit.views.widgets.dashboard import Dashboard

__all__ = ["Controls", "call_of"]

MOST_REPLICAS = 16
MOST_BATCH = 64


def call_of(name: str, options: dict[str, Any]) -> str:
    """The Python call that a control makes."""
    parts = [repr(name), *(f"{key}={value!r}" for key, value in options.items())]
    return f"app.scale({', '.join(parts)})"


class Controls:
    """Sliders and fields for what `App.scale` changes, and a load to try it with."""

    def __init__(self, dashboard: Dashboard) -> None:
        import ipywidgets as w

        self.dashboard = dashboard
        self.app = dashboard.app
        self.handle: Any = None
        self._lock = threading.Lock()
        self._busy = False
        plan = self.app.plan
        narrow = {"description_width": "118px"}

        def wide() -> Any:  # one for each: they are shown and hidden one by one
            return w.Layout(width="430px", max_width="100%")

        self.window = w.ToggleButtons(
            options=[(f"{s // 60} min", s) for s in WINDOWS],
            value=dashboard.window_s,
            style={"button_width": "80px"},
        )
        self.window.observe(self._on_window, "value")
        self.stage = w.Dropdown(
            options=[stage.name for stage in plan.stages],
            description="stage",
            style=narrow,
            layout=wide(),
        )
        self.scales = w.Checkbox(description="scales by itself", indent=False)
        self.replicas = w.IntSlider(
            min=1, max=MOST_REPLICAS, description="replicas", style=narrow, layout=wide()
        )
        self.bounds = w.IntRangeSlider(
            min=0, max=MOST_REPLICAS, description="between", style=narrow, layout=wide()
        )
        self.target = w.BoundedFloatText(
            min=0.1, max=1000, step=0.5, description="ongoing, target", style=narrow, layout=wide()
        )
        self.admitted = w.BoundedIntText(
            min=1, max=100_000, description="at once, at most", style=narrow, layout=wide()
        )
        batched = [n.name for n in plan.graph if isinstance(n.step, BatchedStep)]
        self.step = w.Dropdown(options=batched, description="step", style=narrow, layout=wide())
        self.batch = w.IntSlider(
            min=1, max=MOST_BATCH, description="max batch size", style=narrow, layout=wide()
        )
        self.call = w.HTML()
        self.said = w.HTML()
        self.apply = w.Button(description="Apply", button_style="primary", tooltip="make the call")
        self.call_batch = w.HTML()
        self.apply_batch = w.Button(description="Apply", button_style="primary")
        self.load = LoadPanel(self.app, dashboard.payloads)
        for one in (self.scales, self.replicas, self.bounds, self.target, self.admitted):
            one.observe(self._on_change, "value")
        for one in (self.step, self.batch):
            one.observe(self._on_batch, "value")
        self.stage.observe(self._on_stage, "value")
        self.apply.on_click(lambda _: self._make(self.stage.value, self.options()))
        self.apply_batch.on_click(
            lambda _: self._make(self.step.value, {"max_batch_size": self.batch.value})
        )
        boxes = [
            w.VBox(
                [
                    self.stage,
                    self.scales,
                    self.replicas,
                    self.bounds,
                    self.target,
                    self.admitted,
                    self.call,
                    self.apply,
                ]
            ),
            self.load.widget,
        ]
        titles = ["scale", "load"]
        if batched:
            boxes.insert(1, w.VBox([self.step, self.batch, self.call_batch, self.apply_batch]))
            titles.insert(1, "batches")
        tabs = w.Tab(children=boxes, titles=titles)
        self.widget: Any = w.VBox(
            [self.window, tabs, self.said], layout=w.Layout(max_width="840px")
        )
        self._on_stage(None)
        self._on_batch(None)

    # ---- what is asked for ------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """What Apply changes of the stage: only what differs from how it is."""
        stage = self.app.plan[self.stage.value]
        config = stage.autoscaling_config
        options: dict[str, Any] = {}
        if self.scales.value:
            least, most = self.bounds.value
            wanted = {
                "min_replicas": least,
                "max_replicas": max(1, most),
                "target_ongoing_requests": self.target.value,
            }
            have = dict(config or {})
            have.setdefault("target_ongoing_requests", 2.0)
            options = {k: v for k, v in wanted.items() if config is None or have.get(k) != v}
        elif config is not None or stage.num_replicas != self.replicas.value:
            options = {"num_replicas": self.replicas.value}
        if self.admitted.value != self._admitted():
            options["max_ongoing_requests"] = self.admitted.value
        return options

    def _admitted(self) -> int:
        stage = self.app.plan[self.stage.value]
        most: int = self.app.limits.max_ongoing_requests
        return most if stage.front else int(stage.options.get("max_ongoing_requests", 2 * most))

    def _make(self, name: str, options: dict[str, Any]) -> None:
        """Make the call, here: it takes a second or some, and the dashboard goes on meanwhile."""
        with self._lock:
            if self._busy or not options:
                return
            self._busy = True
        self.apply.disabled = self.apply_batch.disabled = True
        self.said.value = _quiet(f"{call_of(name, options)} …")
        try:
            changes = self.app.scale(name, **options)
        except MlkitError as error:
            self.said.value = _wrong(str(error))
        else:
            words = [f"{c.stage}: {c.action}, {c.why}" for c in changes if c.action != "kept"]
            self.said.value = _quiet("; ".join(words) or "nothing changed")
        finally:
            self._busy = False
            self.apply.disabled = self.apply_batch.disabled = False
            self._on_stage(None)
            self._on_batch(None)

    # ---- events -----------------------------------------------------------------------------

    def _on_window(self, change: Any) -> None:
        self.dashboard.window_s = change["new"]
        self.dashboard.look()

    def _on_stage(self, _: Any) -> None:
        """Set the fields to how the stage is."""
        stage = self.app.plan[self.stage.value]
        config = stage.autoscaling_config or {}
        self.scales.value = bool(config)
        self.replicas.value = stage.num_replicas or 1
        least = config.get("min_replicas", 1)
        self.bounds.value = (least, config.get("max_replicas", max(2, least)))
        self.target.value = config.get("target_ongoing_requests", 2.0)
        self.admitted.value = self._admitted()
        self._on_change(None)

    def _on_change(self, _: Any) -> None:
        _show(self.replicas, not self.scales.value)
        _show(self.bounds, self.scales.value)
        _show(self.target, self.scales.value)
        options = self.options()
        self.apply.disabled = not options
        text = call_of(self.stage.value, options) if options else "as it is"
        self.call.value = _code(text)

    def _on_batch(self, change: Any) -> None:
        if not self.step.value:
            return
        node = self.app.graph[self.step.value]
        own = getattr(node.step, "max_batch_size", None) or 1
        size = self.app.batch_sizes.get(self.step.value, own)
        if change is None or change["owner"] is self.step:
            self.batch.value = size
        same = self.batch.value == size
        self.apply_batch.disabled = same
        options = {"max_batch_size": self.batch.value}
        self.call_batch.value = _code("as it is" if same else call_of(self.step.value, options))

    def refresh(self, shown: Live) -> None:
        """Bring what changes by itself up to date; from the dashboard's thread."""
        self.load.refresh()

    def close(self) -> None:
        """Take the controls away; a load that runs is stopped."""
        self.load.close()
        if self.handle is not None:
            self.handle.update({"text/plain": "", "text/html": ""}, raw=True)
        self.widget.close()


def _show(widget: Any, shown: bool) -> None:
    widget.layout.display = "" if shown else "none"


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


def _code(text: str) -> str:
    return f"<code>{_escaped(text)}</code>"


def _quiet(text: str) -> str:
    return f"<span style='color: var(--jp-ui-font-color2)'>{_escaped(text)}</span>"


def _wrong(text: str) -> str:
    words = _escaped(text).replace("\n", "<br>")
    return f"<span role='alert'>▲ {words}</span>"
