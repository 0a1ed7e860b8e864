"""What is swapped by which name, before anything is sent to a session."""

from __future__ import annotations

from functools import partial

import pytest

from mlkit import pipeline, resource, step
from mlkit.errors import DefinitionError, DeployError
from mlkit.plan import plan
from mlkit.serving.bundle import Manifest, unpack_resource
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.swap import replacements


class Net:
    """A model that is callable, as those of torch are."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x


def load_words() -> list[str]:
    return ["shoe"]


@step
def classify(x: int, *, model: Net = resource(Net), exact: bool = resource(value=True)) -> int:
    return model(x)


@step
def label(x: int, *, words: list[str] = resource(load_words, exclusive=True)) -> str:
    return words[x]


@step
def plain(x: int) -> int:
    return x


@pipeline
def shop(x: int) -> tuple[str, str]:
    return label(classify(plain(x))), label(classify(x))


RESOURCES = {
    "shop.classify.model": "a",
    "shop.classify.exact": "b",
    "shop.classify_2.model": "a",
    "shop.classify_2.exact": "b",
    "shop.label.words": "c",
    "shop.label_2.words": "c",
    "other.classify.model": "a",
    "another.classify.model": "of another step of that name",
}


class FakeSession:
    """Takes the calls of an `App`, and answers with records."""

    def __init__(self, record) -> None:
        self.record, self.calls, self.stored = record, [], {}
        self.store = self

    def put(self, data: bytes) -> str:
        self.stored[f"object {len(self.stored)}"] = data
        return list(self.stored)[-1]

    def get(self, key: str) -> bytes:
        return self.stored[key]

    def call(self, call, **options):
        self.calls.append(call)
        return self.record


@pytest.fixture
def app(record_of, tmp_path) -> App:
    planned = plan(shop)
    record = record_of(planned)
    stages = tuple(
        stage.model_copy(update={"manifest": Manifest({}, RESOURCES)})
        for stage in record.spec.stages
    )
    record = record.model_copy(
        update={"spec": record.spec.model_copy(update={"stages": stages}), "version": "v1"}
    )
    session = FakeSession(record)
    session.folder = tmp_path
    return App(session, planned, record)


def keys(app: App, name: str, new: object) -> list[str]:
    return list(replacements(app.graph, app._record.spec, name, new, lambda data: "key"))


def test_a_resource_is_swapped_for_all_calls_of_its_step_and_in_all_pipelines(app) -> None:
    assert keys(app, "classify.model", Net(2)) == [
        "shop.classify.model",
        "shop.classify_2.model",
        "other.classify.model",
    ]
    assert keys(app, "label", ["hat"]) == ["shop.label.words", "shop.label_2.words"]


@pytest.mark.parametrize(
    ("new", "value"),
    [
        (resource(value=Net(3)), 3),
        (Net(3), 3),
        (partial(Net, 3), 3),
        (Net, 1),
        (lambda: Net(3), 3),
    ],
    ids=["resource", "value", "partial", "class", "function"],
)
def test_a_resource_a_loader_and_a_value_are_swapped_in(app, new, value) -> None:
    app.swap("classify.model", new)
    (data,) = app.session.stored.values()
    assert unpack_resource(data).get().factor == value
    (call,) = app.session.calls
    assert {r.object for r in call.replacements.values()} == set(app.session.stored)
    assert (call.generation, call.canary, call.shadow) == (1, 0, 0)


def test_what_is_not_declared_as_a_resource_is_exclusive_as_the_old_one(app) -> None:
    app.swap("label", lambda: ["hat"])
    app.swap("label", resource(load_words))
    resources = [unpack_resource(data) for data in app.session.stored.values()]
    assert [r.turn is not None for r in resources] == [True, False]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("classfy", "did you mean 'classify'"),
        ("plain", "no resource to swap"),
        ("classify", "has several resources"),
        ("classify.net", "has no resource 'net'"),
    ],
)
def test_a_name_without_a_resource_is_refused_with_those_there_are(app, name, says) -> None:
    with pytest.raises(DeployError) as caught:
        app.swap(name, Net())
    assert says in str(caught.value)
    assert app.session.calls == []


def test_a_value_of_another_type_is_refused_before_it_is_sent(app) -> None:
    with pytest.raises(DefinitionError, match="another type"):
        app.swap("classify.model", {"not": "a model"})
    assert app.session.calls == []


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half"])
@pytest.mark.parametrize("name", ["canary", "shadow"])
def test_a_share_is_a_number_between_0_and_1(app, name, share) -> None:
    with pytest.raises(DefinitionError, match="between 0 and 1"):
        app.swap("classify.model", Net(), **{name: share})


def test_a_shadow_without_metrics_is_refused(app) -> None:
    record = app._record
    app._revisions.record = record.model_copy(
        update={"spec": record.spec.model_copy(update={"observe": False})}
    )
    with pytest.raises(DeployError, match="needs metrics"):
        app.swap("classify.model", Net(), shadow=0.1)
