"""The live view and the dashboard on made-up counts: no session, no Ray, a made-up clock."""

from __future__ import annotations

import re
import threading
import time
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from mlkit import batched_step, pipeline, step
from mlkit.autoscale import Decision, Scaling
from mlkit.errors import DeployError, InputError, SessionError
from mlkit.metrics import Recorder, Rolling, Span, Trace
from mlkit.plan import plan
from mlkit.serving import Limits
from mlkit.tagging import tag
from mlkit.views import Dashboard
from mlkit.views.snapshot import fitting_window, live_of, view
from mlkit.views.widgets.controls import Controls

NOW = 1_700_000_000.0


@step(stage="loading")
def load(x: int) -> int:
    return x


@batched_step(max_batch_size=4)
def judge(xs: list[int]) -> list[int]:
    return xs


@pipeline
def shop(x: int) -> int:
    return judge(load(x))


def counted(names: list[str], seconds: float = 60, rate: int = 20, slow: str = "") -> list[dict]:
    """Deltas of an app that was asked for a while; requests wait before one step."""
    clock = [NOW - seconds]
    recorder = Recorder("shop", front=True, now=lambda: clock[0])
    deltas = []
    while clock[0] < NOW:
        clock[0] += 0.5
        for k in range(rate // 2):
            took = 0.010 + 0.0001 * (k % 7)
            waits = 0.100 if slow else 0.0
            spans = [
                Span(name, 0.0, waits if name == slow else 0.0, waits + took, 2) for name in names
            ]
            recorder.request(
                Trace("a", clock[0], 0.02, 200 if k else 500, 0.0, 0.02, tuple(spans), 1), 10, 20
            )
            recorder.steps(spans, names[0] if not k else None)
        deltas.append(recorder.take())
    return deltas


class Observed:
    """Stands for what reads an app's session."""

    def __init__(self, deltas: list[dict]) -> None:
        self.lock = threading.RLock()
        self.rolling = Rolling()
        self.rolling.add(deltas)
        self.reads = 0
        self.gone = False
        self._scaling = Scaling()
        self._scaling.add(
            {
                "decisions": [Decision(NOW - 9, "loading", "scaled", 1, 3, "because").to_dict()],
                "counts": [
                    {"at": NOW - 50, "stage": "loading", "wanted": 1, "ready": 1},
                    {"at": NOW - 9, "stage": "loading", "wanted": 3, "ready": 1},
                ],
            }
        )

    def read(self) -> None:
        self.reads += 1
        if self.gone:
            raise SessionError("gone")

    def scaling(self, *, read: bool = True) -> Scaling:
        return self._scaling


class App:
    """Stands for an app: what a dashboard asks of one."""

    def __init__(self, deltas: list[dict], made: Any = None) -> None:
        self.name = "shop"
        self.plan = made or plan(shop)
        self.graph = self.plan.graph
        self.closed = False
        self.sent: tuple[Any, ...] = ()
        self._observed = Observed(deltas)
        self.limits = Limits()
        self.batch_sizes: dict[str, int] = {}
        self.calls: list[tuple[str, dict]] = []

    def scale(self, name: str, **options: Any) -> tuple[Any, ...]:
        self.calls.append((name, options))
        if options.get("num_replicas") == 13:
            raise DeployError("no room <here>")
        return (SimpleNamespace(stage=name, action="scaled", why="as asked"),)


@pytest.fixture(scope="module")
def minute() -> list[dict]:
    return counted(["load", "judge"])


@pytest.fixture
def app(minute: list[dict]) -> App:
    return App(minute)


def shown(app: App, **more: Any) -> Any:
    return live_of(
        app.name, app.plan, app._observed.rolling, app._observed._scaling, **{"now": NOW, **more}
    )


def test_the_figures_are_those_of_the_last_seconds(app: App) -> None:
    tiles = {tile.name: tile.value for tile in shown(app).tiles}
    assert tiles["throughput"] == "20"
    assert tiles["p50"] == "20"
    assert tiles["errors"] == "2.0"
    text = str(shown(app))
    assert "load" in text
    assert re.search(r"judge\s+shop\s+20", text)
    assert "loading 1 → 3: because" in text


def test_the_times_of_items_are_shown_of_an_app_that_streams(app: App) -> None:
    recorder = Recorder("shop", front=True, now=lambda: NOW)
    recorder.request(Trace("a", NOW, 0.5, 200, 0.0, 0.5, (), 1), 10, 20, [0.1, 0.12])
    streaming = App([recorder.take()])
    tiles = {tile.name: tile.value for tile in shown(streaming).tiles}
    assert (tiles["first item p95"], tiles["between items p95"]) == ("100", "20")
    assert not [tile for tile in shown(app).tiles if "item" in tile.name]


def test_the_step_that_most_requests_wait_for_is_marked() -> None:
    app = App(counted(["load", "judge"], slow="judge"))
    live = shown(app)
    assert live.slow == "judge"
    assert "most wait here" in live.html
    assert 'class="box busy"' in live.html
    assert "most requests wait for judge" in str(live)
    assert shown(App(counted(["load", "judge"]))).slow == ""


@pytest.fixture(scope="module")
def tagger() -> App:
    """The shipped pipeline, after a quarter of an hour."""
    names = [node.name for node in tag.graph]
    made = plan(tag, options={"download": {"autoscaling_config": {"max_replicas": 4}}})
    return App(with_pool(counted(names, seconds=900, rate=4, slow="look")), made)


@pytest.mark.parametrize("window", [60, 300, 900])
def test_a_look_is_small_and_whole(tagger: App, window: int) -> None:
    live = shown(tagger, window_s=window)
    html = live.html
    assert len(html.encode()) <= 20_000
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")
    twin = html[html.index("<pre") :]
    assert "colours" in twin
    ElementTree.fromstring(live.svg)


def test_a_stage_on_a_gpu_shows_its_memory(app: App) -> None:
    assert "GPU MB" not in shown(app).html
    deltas = counted(["load"])
    for delta in deltas:
        delta["gpu"] = 2_120_000_000
    text = str(shown(App(deltas)))
    assert re.search(r"MB\s+GPU MB\n.*shop .*2,120", text)
    assert '<th scope="col">GPU MB</th>' in shown(App(deltas)).html


def with_pool(deltas: list[dict]) -> list[dict]:
    models = [[f"catalogue-{i}:v1", 4_000_000, "resident"] for i in range(40)]
    counts = {"hits": 95, "loads": 5, "evictions": 1, "failed": 0, "resident": 40}
    for delta in deltas:
        pool = {**counts, "bytes": 160_000_000, "budget_bytes": 200_000_000, "models": models}
        delta["pools"] = [pool]
    return deltas


def test_an_app_with_a_pool_of_models_shows_what_is_in_memory(app: App) -> None:
    live = shown(App(with_pool(counted(["load"]))))
    assert re.search(r"shop +160 MB of 200 MB +95\.0% +5 +1\n  catalogue-0:v1 4\.0 MB", str(live))
    assert "35 more</small>" in live.html
    assert "pools of models" not in shown(app).html


def test_every_chart_says_what_it_stands_at(app: App) -> None:
    said = [panel.description for panel in shown(app, window_s=60).panels]
    assert said[0].startswith("requests per second: 20/s")
    assert "p99 20 ms" in said[1]
    assert said[3] == "replicas of loading: 1 ready, 3 wanted"


def test_each_state_has_its_words(app: App) -> None:
    assert shown(App([])).state == "starting"
    assert "no metrics yet" in shown(App([])).html
    idle = App(counted(["load"], rate=0))
    assert shown(idle).words == "ready, no requests yet: try app(...)"
    assert shown(app, now=NOW + 14).words == "last sample 14 s ago"
    assert shown(app, closed=True).state == "closed"
    none = {"at": NOW, "stage": "shop", "wanted": 0, "ready": 0}
    sleeping = App(counted(["load"]))
    sleeping._observed._scaling.add({"decisions": [], "counts": [none]})
    assert shown(sleeping, now=NOW + 14).state == "asleep"
    assert shown(app).words == "serving"


def test_replicas_that_are_ready_are_no_news_of_their_own(app: App) -> None:
    app._observed._scaling.decisions.clear()
    assert shown(app).decisions == ()
    app._observed._scaling.decisions.append(Decision(NOW, "loading", "ready", 1, 2, "2 answer"))
    assert shown(app).decisions == ()


def test_a_name_is_escaped_wherever_it_stands(app: App) -> None:
    live = live_of("<b>x</b>", app.plan, app._observed.rolling, app._observed._scaling, now=NOW)
    assert "<b>x</b>" not in live.html


def test_a_session_that_is_gone_shows_how_old_it_is(app: App) -> None:
    app._observed.gone = True
    assert view(app, 60).state == "stale"  # type: ignore[arg-type]


def test_a_window_that_is_not_there(app: App) -> None:
    with pytest.raises(InputError, match="window"):
        view(app, 120)  # type: ignore[arg-type]


# ---- the dashboard ---------------------------------------------------------------------------


class Cell:
    """Where something is displayed: keeps what was shown, and what replaced it."""

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.updates: list[Any] = []

    def display(self, what: Any, display_id: bool = False) -> Any:
        self.shown.append(what)
        return SimpleNamespace(update=lambda new, raw=False: self.updates.append(new))


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    import IPython.display

    made = Cell()
    monkeypatch.setattr(IPython.display, "display", made.display)
    return made


def until(what: Any, timeout_s: float = 5) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_shows_a_view_and_replaces_it_from_one_thread(app: App, cell: Cell) -> None:
    dashboard = Dashboard(app, controls=False, every_s=0.2)  # type: ignore[arg-type]
    dashboard._ipython_display_()
    dashboard._ipython_display_()  # a second place
    until(lambda: len(cell.updates) >= 2)
    assert (
        threading.active_count() - sum(t.name != "mlkit-dashboard" for t in threading.enumerate())
        == 1
    )
    assert {type(one).__name__ for one in cell.shown} == {"Live"}
    dashboard.close()
    assert not dashboard.running
    reads = app._observed.reads
    time.sleep(0.5)
    assert app._observed.reads == reads


def test_it_ends_with_its_app_and_keeps_the_last_state(app: App, cell: Cell) -> None:
    dashboard = Dashboard(app, controls=False, every_s=0.2)  # type: ignore[arg-type]
    dashboard._ipython_display_()
    app.closed = True
    until(lambda: not dashboard.running)
    assert cell.updates[-1].state == "closed"
    assert "20" in cell.updates[-1].html


def test_it_ends_when_its_session_has_been_gone_for_long(
    app: App, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.views.widgets.dashboard.GONE_S", 0.5)
    dashboard = Dashboard(app, controls=False, every_s=0.2)  # type: ignore[arg-type]
    dashboard._ipython_display_()
    time.sleep(1.0)
    assert dashboard.running  # old as what it shows is
    app._observed.gone = True
    until(lambda: not dashboard.running)


def test_a_look_that_fails_does_not_end_it(app: App, cell: Cell) -> None:
    dashboard = Dashboard(app, controls=False, every_s=0.2)  # type: ignore[arg-type]
    good, app._observed.rolling = app._observed.rolling, None  # type: ignore[assignment]
    dashboard._ipython_display_()
    until(lambda: cell.updates)
    assert cell.updates[-1].state == "stale"  # and it says that it stands still, and why
    assert "AttributeError" in cell.updates[-1].words
    app._observed.rolling = good
    until(lambda: "AttributeError" not in cell.updates[-1].words)
    assert dashboard.running
    dashboard.close()


def test_how_often_it_may_look(app: App) -> None:
    with pytest.raises(InputError):
        Dashboard(app, every_s=0.01)  # type: ignore[arg-type]


# ---- the controls ----------------------------------------------------------------------------


@pytest.fixture
def controls(app: App, cell: Cell) -> Any:
    windows: list[int] = []
    made = Controls(app, window_s=300, on_window=windows.append)  # type: ignore[arg-type]
    made.windows = windows  # type: ignore[attr-defined]
    yield made
    made.close()


def test_a_control_shows_the_call_and_makes_it(app: App, controls: Any) -> None:
    assert controls.apply.disabled
    controls.stage.value = "loading"
    controls.replicas.value = 3
    assert "app.scale(&#x27;loading&#x27;, num_replicas=3)" in controls.call.value
    controls.apply.click()
    assert app.calls == [("loading", {"num_replicas": 3})]
    assert "as asked" in controls.message.value


def test_autoscaling_shows_its_own_fields(app: App, controls: Any) -> None:
    controls.stage.value = "loading"
    assert controls.bounds.layout.display == "none"
    controls.autoscale.value = True
    assert controls.replicas.layout.display == "none"
    controls.bounds.value = (0, 5)
    assert controls.options() == {
        "min_replicas": 0,
        "max_replicas": 5,
        "target_ongoing_requests": 2.0,
    }


def test_batches_and_admission_are_other_calls(app: App, controls: Any) -> None:
    controls.batch_size.value = 9
    controls.apply_batch.click()
    controls.stage.value = "shop"
    controls.max_ongoing.value = 64
    controls.apply.click()
    assert app.calls == [("judge", {"max_batch_size": 9}), ("shop", {"max_ongoing_requests": 64})]


def test_an_error_is_shown_and_nothing_is_lost(app: App, controls: Any) -> None:
    controls.stage.value = "loading"
    controls.replicas.value = 13
    controls.apply.click()
    assert "no room &lt;here&gt;" in controls.message.value
    assert not controls._busy
    controls.replicas.value = 2
    assert not controls.apply.disabled


def test_a_load_without_anything_to_send_says_what_to_do(app: App, controls: Any) -> None:
    controls.load.start.click()
    assert "call the app once" in controls.load.message.value
    controls.load.shape.value = "ramp"
    controls.load.rate.value = 40
    assert "ramp(seed=0, start=4.0, end=40.0)" in controls.load.call.value


def test_the_selected_window_is_handed_to_the_dashboard(controls: Any) -> None:
    controls.window.value = 900
    assert controls.windows == [900]


@pytest.mark.parametrize(
    ("seconds", "ago", "window"), [(20, 0, 60), (20, 100, 300), (200, 0, 300), (600, 0, 900)]
)
def test_the_window_is_that_of_the_requests(seconds: float, ago: float, window: int) -> None:
    rolling = Rolling()
    rolling.add(counted(["load"], seconds=seconds, rate=2))
    assert fitting_window(rolling, NOW + ago) == window


def test_without_requests_the_window_is_the_shortest() -> None:
    assert fitting_window(Rolling(), NOW) == 60


def test_a_view_chooses_its_window(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app._observed.rolling = Rolling()
    app._observed.rolling.add(counted(["load", "judge"], seconds=20))
    monkeypatch.setattr("mlkit.views.snapshot.time.time", lambda: NOW)
    assert view(app, read=False).window == "1 min"
    assert view(app, 900, read=False).window == "15 min"


def test_fixed_replicas_are_those_that_report_until_they_are_counted(app: App) -> None:
    app._observed._scaling = Scaling()
    live = shown(app)
    front, loading = live.stages
    assert (front.stage, front.ready, front.wanted) == ("shop", "1", "1")
    assert live.panels[-1].paths
    assert "1 ready" in live.panels[-1].description
    assert (loading.ready, loading.cpu, loading.memory, loading.in_flight) == ("-", "-", "-", "-")
