"""Jobs through the application of a pipeline, and the decisions about their items; without Ray."""

import asyncio
import gc
import json
import sqlite3
import threading
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mlkit import Image, InputError, pipeline, step
from mlkit.errors import Overloaded, PayloadTooLarge
from mlkit.serving import Limits, asgi
from mlkit.serving.http import jobs as jobs_module
from mlkit.serving.http.jobs import JobRunner
from mlkit.serving.http.jobstore import (
    LEASE_S,
    ItemDecision,
    JobItem,
    JobLimits,
    JobResult,
    JobStatus,
    JobStore,
    decide,
    dropped,
)
from mlkit.serving.http.userapp import declares

ADDRESS = "http://127.0.0.1"
GO = threading.Event()


@step
def work(x: int) -> int:
    if x == 13:
        raise InputError("no thirteen")
    if x == 99:
        assert GO.wait(10)
    if x < 0:
        raise ValueError("secret")
    return 10 * x


@pipeline
def tens(x: int, unit: str = "") -> int:
    return work(x)


@pytest.fixture
def client() -> Iterator[TestClient]:
    GO.clear()
    with TestClient(asgi(tens), base_url=ADDRESS) as client:
        yield client
        GO.set()


def ended(client: TestClient, job: str, path: str = "/tens/jobs") -> dict:
    """The job once it has ended: events last until then."""
    response = client.get(f"{path}/{job}", headers={"Accept": "text/event-stream"})
    name, data = response.text.strip().split("\n\n")[-1].splitlines()
    assert name == "event: end"
    return json.loads(data.removeprefix("data: "))


def results(client: TestClient, job: str) -> list[dict]:
    lines = client.get(f"/tens/jobs/{job}/results").text.splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "POLL_S", 0.005)


# ---- routes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", ['[{"x": 1}, {"x": 2}, 3]', '{"x": 1}\n{"x": 2}\n\n3\n', b'[{"x":1},2,{"x":"3"}]']
)
@pytest.mark.parametrize("path", ["/jobs", "/tens/jobs"])
def test_a_job_has_a_result_per_input_in_their_order(client, body, path) -> None:
    response = client.post(path, content=body)
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"{path}/{job['id']}"
    assert (job["state"], job["total"], job["failed"]) == ("running", 3, 0)
    done = ended(client, job["id"], path)
    assert (done["state"], done["done"], done["failed"]) == ("done", 3, 0)
    expected = [{"index": n, "status": 200, "result": 10 * (n + 1)} for n in range(3)]
    assert results(client, job["id"]) == expected


def test_failures_are_items(client) -> None:
    job = client.post("/tens/jobs", json=[13, 1, "x", -1, {"y": 1}]).json()["id"]
    assert ended(client, job)["failed"] == 4
    found = results(client, job)
    assert [each["status"] for each in found] == [422, 200, 422, 500, 422]
    assert found[0]["problem"]["detail"] == "no thirteen"
    assert found[2]["problem"]["errors"][0]["loc"] == ["body", "x"]
    assert found[3]["problem"]["failure_id"]
    assert "secret" not in json.dumps(found)


def test_results_come_before_the_job_has_ended(client) -> None:
    job = client.post("/tens/jobs", json=[99, 1]).json()["id"]
    while not (found := results(client, job)):
        time.sleep(0.001)
    assert found == [{"index": 1, "status": 200, "result": 10}]
    assert client.get(f"/tens/jobs/{job}").json()["done"] == 1
    GO.set()
    ended(client, job)
    assert [each["index"] for each in results(client, job)] == [0, 1]


def test_a_job_is_cancelled_and_then_deleted(client) -> None:
    job = client.post("/tens/jobs", json=[1, *[99] * 40]).json()["id"]
    while not results(client, job):
        time.sleep(0.001)
    cancelled = client.delete(f"/tens/jobs/{job}").json()
    assert (cancelled["state"], cancelled["done"], cancelled["failed"]) == ("cancelled", 41, 40)
    GO.set()
    found = results(client, job)
    assert [each["status"] for each in found] == [200, *[499] * 40]
    assert client.delete(f"/tens/jobs/{job}").status_code == 204
    assert client.delete(f"/tens/jobs/{job}").status_code == 404


def test_jobs_are_listed(client) -> None:
    assert client.get("/jobs").json() == {"jobs": []}
    ids = [client.post("/jobs", json=[1]).json()["id"] for _ in range(2)]
    assert {job["id"] for job in client.get("/tens/jobs").json()["jobs"]} == set(ids)


def test_an_empty_job_is_done(client) -> None:
    job = client.post("/tens/jobs", json=[]).json()
    assert (job["state"], job["total"]) == ("done", 0)
    assert results(client, job["id"]) == []


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/results")])
def test_unknown_jobs_are_not_found(client, method, path) -> None:
    response = client.request(method, f"/tens/jobs/nothing{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b"{", b"[1, 2", b"\xff", b"1\n{", b'{"a":' * 1_999])
def test_what_is_no_list_is_refused(client, body) -> None:
    assert client.post("/tens/jobs", content=body).status_code == 422


def test_a_disk_on_which_no_jobs_can_be_kept_is_503_and_the_log_names_it(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "jobs.db"
    with TestClient(asgi(tens, jobs=path), base_url=ADDRESS) as client:
        response = client.post("/tens/jobs", content=b"[1]")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "file" not in response.json()["detail"]
        assert client.get("/tens/jobs").json() == {"jobs": []}
        assert client.post("/tens", json={"x": 1}).json() == 10
    assert str(path) in caplog.text


def test_the_list_may_be_at_a_url(client, monkeypatch) -> None:
    async def fetch(url: str) -> bytes:
        assert url == "https://example.com/list"
        return b'{"x": 1}\n{"x": 2}'

    monkeypatch.setattr(jobs_module, "fetch", fetch)
    body = {"items_url": "https://example.com/list"}
    assert client.post("/tens/jobs", json=body).json()["total"] == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/list", "http://169.254.169.254/", "file:///x"])
def test_urls_of_the_internal_network_are_refused(client, url) -> None:
    response = client.post("/tens/jobs", json={"items_url": url})
    assert response.status_code in (422, 424)


def test_the_token_protects_every_route() -> None:
    client = TestClient(asgi(tens, token="t0ken"), base_url=ADDRESS)
    for method, path in [("POST", ""), ("GET", ""), ("GET", "/a"), ("DELETE", "/a")]:
        assert client.request(method, f"/tens/jobs{path}").status_code == 401
    headers = {"Authorization": "Bearer t0ken"}
    assert client.get("/tens/jobs", headers=headers).status_code == 200


def test_items_that_find_the_app_full_are_tried_again() -> None:
    with TestClient(asgi(tens, limits=Limits(max_ongoing_requests=1)), base_url=ADDRESS) as client:
        job = client.post("/tens/jobs", json=list(range(5))).json()["id"]
        assert ended(client, job)["failed"] == 0


def test_pictures_are_data_urls() -> None:
    @pipeline
    def same(picture: Image) -> Image:
        return copied(picture)

    dot = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAF"
        "AAH/iZk9HQAAAABJRU5ErkJggg=="
    )
    with TestClient(asgi(same), base_url=ADDRESS) as client:
        job = client.post("/same/jobs", json=[dot]).json()["id"]
        ended(client, job, "/same/jobs")
        found = json.loads(client.get(f"/same/jobs/{job}/results").text)
    assert found["status"] == 200
    assert found["result"].startswith("data:image/")


@step
def copied(picture: Image) -> Image:
    return picture


def test_routes_of_the_user_take_precedence() -> None:
    own = FastAPI()

    @own.get("/jobs/{id}")
    def job(id: str) -> str:
        return f"mine {id}"

    assert declares(own.routes, "/jobs", "/tens/jobs")
    assert not declares(FastAPI().routes, "/jobs", "/tens/jobs")
    client = TestClient(asgi(tens, fastapi=own), base_url=ADDRESS)
    assert client.get("/jobs/1").json() == "mine 1"
    assert client.post("/tens/jobs", json=[1]).status_code == 404


def test_another_process_goes_on_with_a_job(tmp_path) -> None:
    file = tmp_path / "jobs.sqlite"
    dead = JobStore(file)
    job = dead.add([b'{"x": 1}', b'{"x": 2}'], time.time()).id
    dead.claim("dead", 1, time.time() - 2 * LEASE_S, 3)
    dead.close()
    with TestClient(asgi(tens, jobs=file), base_url=ADDRESS) as client:
        assert ended(client, job)["failed"] == 0
        assert [each["result"] for each in results(client, job)] == [10, 20]


# ---- store and decisions ------------------------------------------------------------------------


@given(st.integers(0, 5), st.floats(-100, 100), st.floats(-100, 100), st.integers(1, 5))
def test_an_item_is_left_to_its_replica_until_its_lease_expires(attempts, lease, now, most) -> None:
    decision = decide(attempts, lease, now, most)
    assert (decision is ItemDecision.LEAVE) == (now < lease)
    if decision is not ItemDecision.LEAVE:
        assert (decision is ItemDecision.RUN) == (attempts < most)


def job(id: str, ended: float | None) -> JobStatus:
    return JobStatus(id, 0.0, 1, int(ended is None), 0, ended=ended)


@given(st.lists(st.one_of(st.none(), st.integers(0, 200)), max_size=8), st.integers(1, 6))
def test_old_jobs_make_room_and_running_ones_do_not(ends, most) -> None:
    jobs = [job(str(n), end) for n, end in enumerate(ends)]
    limits = JobLimits(max_jobs=most, keep_s=100)
    if sum(end is None for end in ends) >= most:
        with pytest.raises(Overloaded):
            dropped(jobs, 200, limits)
        return
    gone = dropped(jobs, 200, limits)
    kept = [each for each in jobs if each.id not in gone]
    assert len(kept) < most
    assert all(each.ended is None or each.ended > 100 for each in kept)
    assert all(each.ended is not None for each in jobs if each.id in gone)
    if len(jobs) < most:
        assert all(jobs[int(id)].ended <= 100 for id in gone)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path) -> Iterator[JobStore]:
    path = ":memory:" if request.param == "memory" else tmp_path / "jobs.sqlite"
    store = JobStore(path, JobLimits(max_items=5, max_bytes=40, max_jobs=2, keep_s=100))
    yield store
    store.close()


def test_leases(store) -> None:
    assert not store.has_jobs
    id = store.add([b"0", b"1", b"2"], 0.0).id
    first, second = store.claim("a", 2, 0.0, 3)
    assert (first.index, second.index, first.body) == (0, 1, b"0")
    assert [item.index for item in store.claim("b", 5, 1.0, 3)] == [2]
    assert store.renew("a", [first], 5.0) == set()
    assert [item.index for item in store.claim("b", 5, LEASE_S, 3)] == [1]  # a has lost it
    assert store.renew("a", [first, second], LEASE_S) == {second}
    assert not store.finish("a", id, JobResult(1, 200, b"of a"), LEASE_S)
    assert store.finish("b", id, JobResult(1, 200, b"of b"), LEASE_S)
    assert not store.finish("b", id, JobResult(1, 200, b"again"), LEASE_S)
    assert [result.document for result in store.results(id)] == [b"of b"]


def test_an_item_that_kills_its_replicas_fails(store) -> None:
    id = store.add([b"0"], 0.0).id
    for attempt in range(3):
        assert len(store.claim("a", 1, attempt * LEASE_S, 3)) == 1
    assert store.claim("a", 1, 3 * LEASE_S, 3) == []
    assert store.get(id).state == "done"
    (result,) = store.results(id)
    assert result.status == 500
    assert "3 times" in json.loads(result.document)["detail"]


def test_what_is_given_back_counts_as_no_attempt(store) -> None:
    store.add([b"0"], 0.0)
    for now in range(0, 10, 2):
        (item,) = store.claim("a", 1, now, 1)
        store.release("a", item, now + 1)
        assert store.claim("b", 1, now + 0.5, 1) == []


def test_the_job_with_the_least_progress_goes_first(store) -> None:
    large = store.add([b"0"] * 5, 0.0).id
    for item in store.claim("a", 3, 0.0, 3):
        store.finish("a", large, JobResult(item.index, 200, b"1"), 0.0)
    small = store.add([b"0"], 1.0).id
    assert [item.job for item in store.claim("a", 2, 1.0, 3)] == [small, large]


def test_bounds(store) -> None:
    for bodies in ([b"0"] * 6, [b"0" * 41]):
        with pytest.raises(PayloadTooLarge):
            store.add(bodies, 0.0)
    first, second = store.add([b"0"], 0.0), store.add([b"0"], 0.0)
    with pytest.raises(Overloaded):
        store.add([b"0"], 0.0)
    store.cancel(first.id, 1.0)
    third = store.add([b"0"] * 2, 2.0)
    assert {each.id for each in store.all()} == {second.id, third.id}
    store.claim("a", 5, 2.0, 3)
    store.finish("a", third.id, JobResult(0, 200, b"1" * 30), 3.0)
    store.finish("a", third.id, JobResult(1, 200, b"1" * 30), 3.0)
    assert [result.status for result in store.results(third.id)] == [200, 500]
    assert store.get(third.id).failed == 1


class Runner:
    """A runner whose items run until ``go``, in made-up time: the wall clock may be set."""

    def __init__(self, store: JobStore, **options) -> None:
        self.now, self.passed = 10_000.0, 0.0
        self.runs: list[int] = []
        self.go = asyncio.Event()
        self.runner = JobRunner(
            store,
            self.run,
            concurrency=4,
            now=lambda: self.now,
            monotonic=lambda: self.passed,
            **options,
        )

    async def run(self, item: JobItem) -> JobResult:
        self.runs.append(item.index)
        await self.go.wait()
        return JobResult(item.index, 200, b"1")

    async def turns(self, seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            self.now, self.passed = self.now + 0.5, self.passed + 0.5
            await self.runner.turn()
            await asyncio.sleep(0)


@pytest.mark.parametrize("max_attempts", [1, 3])
@pytest.mark.parametrize("set_by_s", [-600, 600])
def test_running_items_run_once_though_the_clock_is_set(store, set_by_s, max_attempts) -> None:
    async def main() -> list[JobStatus]:
        one = Runner(store, max_attempts=max_attempts)
        early = store.add([b"0"], one.now)
        await one.turns(1)
        one.now += set_by_s
        late = store.add([b"0"], one.now)
        await one.turns(3 * LEASE_S)
        assert one.runs == [0, 0]
        assert store.claim("another replica", 4, one.now, max_attempts) == []
        one.go.set()
        await one.runner.close()
        while one.runner._running:
            await asyncio.sleep(0.001)
        return [store.get(job.id) for job in (early, late)]

    assert [(job.state, job.failed) for job in asyncio.run(main())] == [("done", 0)] * 2


def test_an_item_whose_result_could_not_be_kept_is_run_again(store, monkeypatch, caplog) -> None:
    async def main() -> None:
        one = Runner(store)
        one.go.set()
        store.add([b"0"], one.now)
        with monkeypatch.context() as patch:
            patch.setattr(store, "finish", None)
            await one.turns(0.5)
            while one.runner._running:
                await asyncio.sleep(0.001)
        await one.turns(LEASE_S)
        assert one.runs == [0, 0]

    asyncio.run(main())


# ---- items that fail in other ways --------------------------------------------------------------


def outcome(application, name: str, items: list) -> list[dict]:
    """The results of a job of another pipeline."""
    with TestClient(application, base_url=ADDRESS) as client:
        job = client.post(f"/{name}/jobs", json=items).json()["id"]
        ended(client, job, f"/{name}/jobs")
        lines = client.get(f"/{name}/jobs/{job}/results").text.splitlines()
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("headers", [None, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}])
def test_a_steps_own_503_is_a_result(headers) -> None:
    calls = []

    @step
    def book(x: int) -> int:
        calls.append(x)
        raise HTTPException(503, "down", headers=headers)

    @pipeline(idempotent=False)
    def order(x: int) -> int:
        return book(x)

    assert [each["status"] for each in outcome(asgi(order), "order", [1])] == [503]
    assert calls == [1]


def test_a_result_without_a_body_is_a_document() -> None:
    @step
    def silent(x: int) -> int:
        raise HTTPException(204)

    @pipeline
    def nothing(x: int) -> int:
        return silent(x)

    assert outcome(asgi(nothing), "nothing", [1]) == [{"index": 0, "status": 204, "problem": None}]


def test_items_have_the_size_limit_of_requests() -> None:
    @step
    def length(text: str) -> int:
        return len(text)

    @pipeline
    def measured(text: str) -> int:
        return length(text)

    application = asgi(measured, limits=Limits(max_body_bytes=1000))
    items = ["x" * 5000, "x" * 500]
    assert [each["status"] for each in outcome(application, "measured", items)] == [413, 200]


def test_too_many_items_are_refused_before_each_is_looked_at(client) -> None:
    response = client.post("/tens/jobs", content=b"[" + b"1," * 10_000 + b"1]")
    assert response.status_code == 413
    assert "10,001" in response.json()["detail"]


def test_a_request_sent_again_with_its_key_is_the_same_job(client) -> None:
    def submit(key: str, items: list) -> str:
        headers = {"Idempotency-Key": key}
        return client.post("/tens/jobs", json=items, headers=headers).json()["id"]

    first = submit("k", [1, 2])
    assert submit("k", [1, 2]) == first
    assert len({first, submit("k", [1, 3]), submit("l", [1, 2])}) == 3


def test_beside_a_pipeline_named_jobs_each_route_is_its_own() -> None:
    @pipeline
    def jobs(x: int) -> int:
        return work(x)

    with TestClient(asgi(jobs), base_url=ADDRESS) as client:
        assert client.post("/jobs", json={"x": 5}).json() == 50
        assert client.post("/jobs/jobs", json=[5]).status_code == 202


def test_a_store_that_is_dropped_closes_its_file(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    store.add([b"1"], 0.0)
    connection = store._connection
    assert connection is not None
    del store
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_readers_do_not_wait_for_a_writer(tmp_path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite")
    job = store.add([b"1"], 0.0)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert store.get(job.id) is not None
    assert list(store.results(job.id)) == []
    other.close()
    store.close()
