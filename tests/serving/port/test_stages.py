"""Pipelines whose steps run in several processes, on a real Ray: the same answers, errors, code."""

import linecache
import threading
import time

import httpx2
import pytest

from mlkit.errors import DeployError, RequestError

pytestmark = [pytest.mark.serve, pytest.mark.timeout(240)]

SOURCE = """
import os, time
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from mlkit import InputError, batched_step, branch, each, pipeline, resource, step
from mlkit.serving import served

class Label(BaseModel):
    name: str
    pid: int
    loaded: float

def load():
    {loading}
    return time.time()

@step
def split(text: str) -> list[str]:
    if text == "bad":
        raise InputError("no words in it")
    return text.split()

@batched_step(max_batch_size=4, stage="models")
def label(words: list[str], *, model: float = resource(load)) -> list[Label]:
    if "boom" in words:
        raise ValueError("no boom please")
    return [Label(name=word + "{mark}", pid=os.getpid(), loaded=model) for word in words]

@step
def count(text: str) -> str:
    return "many" if len(text) > 10 else "few"

@step(stage="other")
def many(text: str) -> str:
    print("counting many")
    return "many!"

@step
def few(text: str) -> str:
    return "few{few}"

@step
def join(labels: list[Label], size: str) -> dict[str, object]:
    assert all(isinstance(label, Label) for label in labels)
    return {{"labels": [dict(label) for label in labels], "size": size, "front": os.getpid()}}

@pipeline
def words(text: str) -> dict[str, object]:
    return join(each(label, split(text)), branch(count(text), {{"many": many, "few": few}})(text))

shop = FastAPI()

@shop.get("/shop/{{text}}")
async def shop_words(text: str, words=Depends(served(words))) -> dict[str, object]:
    return {{"shop": "{mark}", **(await words(text))}}
"""


@pytest.fixture(scope="module")
def deployed(live):
    """Deploys the pipeline as it is written with some parts changed."""
    names = {"__name__": "__main__"}

    def make(*, mark="", few="", loading="pass", own=False, **options):
        source = SOURCE.format(mark=mark, few=few, loading=loading)
        # With a file name of its own, as a cell has, and its text where tracebacks look for it.
        file = f"<cell {hash(source)}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), names)
        fastapi = names["shop"] if own else None
        names["app"] = live(names["words"], fastapi=fastapi, **options)
        return names["app"]

    yield make
    names["app"].shutdown()


def actions(app):
    return {change.stage: change.action for change in app.changes}


def test_steps_run_where_the_plan_says_and_the_answer_is_the_same(deployed) -> None:
    app = deployed()
    answer = app("a b c")
    assert [label["name"] for label in answer["labels"]] == ["a", "b", "c"]
    assert answer["size"] == "few"
    assert answer["front"] not in {label["pid"] for label in answer["labels"]}
    assert app("a long enough text")["size"] == "many!"
    assert app.logs("many")[-1].text == "counting many"
    assert set(app.status().stages) == {"words", "models", "other"}


def test_what_ray_sets_aside_is_what_the_plan_says(deployed) -> None:
    app = deployed()
    frame = app.placement().to_frame()
    assert frame["num_cpus"].sum() == pytest.approx(app.plan.num_cpus)
    assert set(frame["state"]) == {"RUNNING"}


def test_failures_elsewhere_name_their_step_and_keep_their_traceback(deployed) -> None:
    app = deployed()
    with pytest.raises(RequestError, match="label") as caught:
        app("a boom")
    assert caught.value.http_status == 500
    assert "no boom please" in str(caught.value)
    failure = app.failures[-1]
    assert failure.step == "label"
    assert 'raise ValueError("no boom please")' in failure.traceback
    with pytest.raises(RequestError, match="no words in it") as caught:
        app("bad")
    assert caught.value.http_status == 422


def test_changed_code_goes_into_running_processes_and_models_stay(deployed) -> None:
    before = deployed()("a")
    app = deployed(mark="!")
    assert actions(app) == {
        "words": "new code in place",
        "models": "new code in place",
        "other": "kept",
    }
    after = app("a")
    assert after["labels"][0]["name"] == "a!"
    assert (after["front"], after["labels"][0]["pid"]) == (
        before["front"],
        before["labels"][0]["pid"],
    )
    assert after["labels"][0]["loaded"] == before["labels"][0]["loaded"]
    changed = deployed(mark="!", few="?")
    assert actions(changed) == {"words": "new code in place", "models": "kept", "other": "kept"}
    assert changed("a")["size"] == "few?"
    assert set(actions(deployed(mark="!", few="?")).values()) == {"kept"}


def test_a_version_that_cannot_be_loaded_changes_nothing(deployed) -> None:
    app = deployed(mark="1")
    with pytest.raises(DeployError, match="could not be loaded") as caught:
        deployed(mark="2", loading='raise OSError("no such model")')
    assert "models" in str(caught.value)
    assert "no such model" in str(caught.value)
    assert app("a")["labels"][0]["name"] == "a1"
    assert deployed(mark="2")("a")["labels"][0]["name"] == "a2"


def test_no_request_fails_or_mixes_versions_while_code_changes(deployed) -> None:
    app = deployed(mark="0", few="0")
    seen, stop = [], threading.Event()

    def ask() -> None:
        request = app.prepare("a b")
        with httpx2.Client() as client:
            while not stop.is_set():
                seen.append(client.post(request.url, headers=request.headers, content=request.body))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for mark in "12":
        deployed(mark=mark, few=mark)
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in seen} == {200}
    versions = {
        (*(label["name"][1:] for label in body["labels"]), body["size"][3:])
        for body in (answer.json() for answer in seen)
    }
    assert versions == {(mark, mark, mark) for mark in "012"}


def test_a_replica_is_added_without_replacing_the_others(deployed) -> None:
    before = deployed()("a")["labels"][0]["pid"]
    app = deployed(options={"label": {"num_replicas": 2}})
    assert actions(app)["models"] == "scaled"
    assert app.status().stages["models"] == {"RUNNING": 2}
    pids = {label["pid"] for _ in range(30) for label in app("a b c d e f")["labels"]}
    assert before in pids
    assert actions(deployed())["models"] == "scaled"


def test_an_application_of_ones_own_calls_the_stages(deployed) -> None:
    app = deployed(mark="~", own=True)
    headers = app.prepare("a").headers
    url = app.url.removesuffix("/words") if app.url.endswith("/words/words") else app.url
    answer = httpx2.get(f"{url}/shop/a", headers=headers).json()
    assert (answer["shop"], answer["labels"][0]["name"]) == ("~", "a~")
    assert httpx2.get(f"{url}/shop/a").status_code == 401


def test_a_stage_goes_when_no_step_asks_for_it(deployed) -> None:
    app = deployed(options={"many": {"stage": "words"}})
    assert actions(app)["other"] == "removed"
    assert app("a long enough text")["size"] == "many!"
    assert set(app.status().stages) == {"words", "models"}


POOLS = """
from mlkit.models import ModelPool

def open_pool():
    return ModelPool(lambda id: {"id": id}, budget_bytes=1_000, size=lambda id: 100)

@batched_step(max_batch_size=4, stage="models", num_replicas=2)
def look(
    texts: list[str], model_ids: list[str], *, pool: ModelPool = resource(open_pool)
) -> list[int]:
    pids = [0] * len(texts)
    for model, places in pool.by_model(model_ids):
        for place in places:
            pids[place] = os.getpid()
    return pids

@pipeline
def look_by(text: str, model: str) -> int:
    return look(text, model)
"""


def test_calls_go_to_the_replica_that_holds_their_model(live, cell) -> None:
    app = live(cell(POOLS)["look_by"])
    pids = {str(id): {app("a", str(id)) for _ in range(3)} for id in range(12)}
    assert {len(of_model) for of_model in pids.values()} == {1}
    assert len(set.union(*pids.values())) == 2
    app.shutdown()
