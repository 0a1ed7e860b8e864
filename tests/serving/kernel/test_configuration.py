"""What of a deployed app can be updated, by which name and to which values."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from pydantic import Field

from mlkit import batched_step, pipeline, resource, step
from mlkit.define.resource import Resource
from mlkit.errors import DefinitionError, DeployError
from mlkit.execute import Executor
from mlkit.plan import plan
from mlkit.serving.bundle import pack, unpack_resource
from mlkit.serving.control.records import Replacement
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.configuration import updates
from mlkit.serving.replica.loading import Loader

from .test_swap import FakeSession


@batched_step(max_batch_size=4)
def score(
    xs: list[float],
    *,
    factor: float = resource(value=2.0),
    offset: int = resource(value=1),
    table: dict[str, int] = resource(value={"a": 1}),
) -> list[float]:
    return [factor * x + offset for x in xs]


@step
def decide(
    x: float, threshold: Annotated[float, Field(ge=0, le=1)] = 0.5, words: list[str] | None = None
) -> str:
    return f"{x} {'above' if x > threshold else 'below'} {threshold} {words}"


@step
def passed(x: float, limit: float = 3.0) -> float:
    return min(x, limit)


@pipeline
def shop(x: float) -> str:
    return decide(score(passed(x, limit=5.0)))


@pipeline
def twice(x: float) -> tuple[str, str]:
    return decide(x), decide(score(x))


def app_of(pipe, record_of, tmp_path, **options) -> App:
    """An app whose session takes every call, with the manifests of real bundles."""
    planned = plan(pipe, **options)
    record = record_of(planned)
    stages = tuple(
        stage.model_copy(update={"manifest": packed.manifest})
        for stage, packed in zip(record.spec.stages, pack(planned), strict=True)
    )
    record = record.model_copy(
        update={"spec": record.spec.model_copy(update={"stages": stages}), "version": "v1"}
    )
    session = FakeSession(record)
    session.folder = tmp_path
    return App(session, planned, record)


@pytest.fixture
def app(record_of, tmp_path) -> App:
    return app_of(shop, record_of, tmp_path)


def test_defaults_that_the_pipeline_does_not_pass_and_plain_values_can_be_updated(app) -> None:
    assert app.configuration == {
        "score.factor": 2.0,
        "score.offset": 1,
        "decide.threshold": 0.5,
        "decide.words": None,
    }


@pytest.mark.parametrize("options", [{}, {"layout": "per_step"}])
def test_an_update_is_one_call_with_typed_values_for_every_call_of_the_step(
    record_of, tmp_path, options
) -> None:
    app = app_of(twice, record_of, tmp_path, **options)
    app.update({"decide.words": ["a"]}, threshold=0.7)
    (call,) = app.session.calls
    assert (call.how, call.canary, call.generation) == ("updated", 0.0, 1)
    nodes = sorted(key.split(".", 1)[1] for key in call.replacements)
    assert nodes == ["decide.threshold", "decide.words", "decide_2.threshold", "decide_2.words"]
    texts = {key.rpartition(".")[2]: new.text for key, new in call.replacements.items()}
    assert texts == {"threshold": "0.7", "words": ""}
    values = [unpack_resource(data).value for data in app.session.stored.values()]
    assert values == [["a"], 0.7]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"threshold": "high"}, DefinitionError, "does not match its annotation"),
        ({"threshold": 1.5}, DefinitionError, "less than or equal to 1"),
        ({"threshold": None}, DefinitionError, "float"),
        ({"offset": 1.5}, DefinitionError, "int"),
        ({"treshold": 0.7}, DeployError, "did you mean 'threshold'"),
        ({"limit": 4.0}, DeployError, "no step has 'limit'"),
        ({"nothing": 1}, DeployError, "one of score.factor"),
        ({}, DeployError, "no values"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(app, values, error, words) -> None:
    with pytest.raises(error) as caught:
        app.update(values)
    assert words in str(caught.value)
    assert app.session.calls == []


def test_a_keyword_of_several_steps_needs_the_step(record_of, tmp_path) -> None:
    @step
    def other(text: str, threshold: float = 0.1) -> str:
        return text

    @pipeline
    def both(x: float) -> str:
        return other(decide(x))

    app = app_of(both, record_of, tmp_path)
    with pytest.raises(DeployError, match="several steps have 'threshold'") as caught:
        app.update(threshold=0.7)
    assert "decide.threshold" in caught.value.fix
    app.update({"other.threshold": 0.7})
    assert [key for call in app.session.calls for key in call.replacements] == [
        "both.other.threshold"
    ]


def test_what_was_updated_is_in_the_configuration(app) -> None:
    app.update(threshold=0.75)
    (call,) = app.session.calls
    spec = app._record.spec.model_copy(update={"replacements": call.replacements})
    app._revisions.record = app._record.model_copy(update={"spec": spec})
    assert app.configuration["decide.threshold"] == 0.75


# ---- in a replica -------------------------------------------------------------------------------


def loaded_with(pipe, values, ask):
    """Loads a pipeline with and without updates, one after the other, as a replica does."""
    planned = plan(pipe)
    (packed,) = pack(planned)
    objects: dict[str, bytes] = {"bundle": packed.data}

    class Spec:
        stages = (packed,)

    def store(data: bytes) -> str:
        objects[f"object {len(objects)}"] = data
        return list(objects)[-1]

    new: dict[str, Replacement] = updates(planned.graph, Spec, values, store)
    replaced = {key: [each.object, each.digest] for key, each in new.items()}

    async def load():
        loader = Loader(objects.__getitem__)
        results = []
        for wanted in ({}, replaced, {}):
            version = await loader.load("bundle", replaced=wanted)
            loop = asyncio.get_running_loop()
            executor = Executor(version.programs[pipe.name], workers=1, loop=loop)
            results.append((await executor.run(ask)).output)
            executor.close(wait=False)
            await loader.free(version)
        return results

    return asyncio.run(load())


def test_a_replica_runs_with_the_new_values_and_then_with_the_old_ones_again() -> None:
    values = {"threshold": 0.9, "words": ["a"], "factor": 0.1, "offset": 0}
    before, updated, after = loaded_with(shop, values, {"x": 9.0})
    assert before == after == "11.0 above 0.5 None"
    assert updated == "0.5 below 0.9 ['a']"


def test_a_copy_with_other_resources_leaves_the_step_as_it_is() -> None:
    """A step of an installed module is one object for all versions in a replica."""
    changed = decide.with_resources({"threshold": Resource(None, 0.9, ())})
    assert changed(0.7) == "0.7 below 0.9 None"
    assert decide(0.7) == "0.7 above 0.5 None"
    assert list(decide.parameters) == ["x", "threshold", "words"]
    assert list(changed.parameters) == ["x", "words"]
    assert type(changed) is type(decide)
