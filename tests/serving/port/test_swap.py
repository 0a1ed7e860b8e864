"""A model that is swapped on a real Ray Serve, under load."""

import threading
import time
from collections import Counter

import httpx2
import pytest

from mlkit.errors import DeployError

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

SHOP = """
class Net:
    def __init__(self, factor):
        self.factor = factor

def loader(factor):
    def load():
        if factor == 0:
            raise OSError("no weights")
        return Net(factor)
    return load

first = loader(1)

@step
def scale(x: float, *, net: Net = resource(first)) -> float:
    return x * net.factor

@step(stage="far", num_cpus=0.1)
def shift(x: float, *, by: float = resource(value=1.0)) -> float:
    return x + by

@pipeline
def shop(x: float) -> float:
    return shift(scale(x))
"""


class Load:
    """Requests one after the other, in a thread: version and result of each."""

    def __init__(self, app) -> None:
        self.app = app
        self.answers, self.failures = [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.app.token}"}
        with httpx2.Client(headers=headers) as client:
            while not self._stop.is_set():
                response = client.post(self.app.url, json={"x": 2.0})
                if response.status_code == 200:
                    version = response.headers["x-mlkit-version"]
                    self.answers.append((version, response.json()))
                else:
                    self.failures.append(response.text)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()

    def next(self, count=1):
        """The answers to the next requests."""
        begin = len(self.answers) + 1  # one may be under way
        while len(self.answers) < begin + count:
            time.sleep(0.005)
        return self.answers[begin : begin + count]


@pytest.fixture
def shop(live, cell):
    """The names of the cell and the app deployed from it."""
    names = cell(SHOP)
    return names, live(names["shop"])


def test_models_are_swapped_tried_promoted_and_rolled_back_without_a_failed_request(shop) -> None:
    names, app = shop
    first = app.version
    with Load(app) as load:
        assert load.next() == [(first, 3.0)]

        app.swap("scale", names["loader"](3))
        second = app.version
        assert load.next() == [(second, 7.0)]
        app.swap("shift", 2.0)
        assert load.next() == [(app.version, 8.0)]
        app.rollback()
        assert (app.version, load.next()) == (second, [(second, 7.0)])

        with pytest.raises(DeployError, match="could not be loaded") as caught:
            app.swap("scale", names["loader"](0))
        assert "no weights" in caught.value.got
        assert load.next() == [(second, 7.0)]

        app.swap("shift.by", 5.0, canary=0.5)
        tried = app.trial.version
        answers = load.next(60)
        assert set(answers) == {(second, 7.0), (tried, 11.0)}
        assert 10 < Counter(answers)[(tried, 11.0)] < 50
        app.scale("shift", 2)
        assert {result for _, result in load.next(60)} == {7.0, 11.0}
        app.promote()
        assert load.next(5) == [(tried, 11.0)] * 5

        app.swap("scale", names["Net"](-1), shadow=1.0)
        shadow = app.trial.version
        assert load.next(20) == [(tried, 11.0)] * 20
        until = time.monotonic() + 10
        while not app.disagreements().compared and time.monotonic() < until:
            time.sleep(0.2)
        disagreements = app.disagreements()
        assert disagreements.version == shadow
        assert disagreements.disagreed == disagreements.compared > 0
        row = disagreements.to_frame().iloc[0]
        assert (row["x"], row["old"], row["new"]) == ("2", "11", "3")
        app.rollback()
        assert load.next() == [(tried, 11.0)]
    assert load.failures == []
    traced = {trace.version for trace in app.slowest(10_000)}
    assert traced & {version for version, _ in load.answers}
