"""Requests in, results and problem documents out, for any pipeline; without Ray."""

import gzip
import json
import re
import threading
import time
import zlib

import pytest
from fastapi.openapi.models import OpenAPI

from mlkit import InputError, pipeline, step
from mlkit.errors import printable
from mlkit.serving import Limits

JPEG = {"content-type": "image/jpeg"}
JSON = {"content-type": "application/json"}


def problem(answer, status):
    """Checks that an answer is a problem document of a status; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    return document


def test_a_raw_picture_takes_its_fields_from_the_query(face, tagger) -> None:
    answer = face(tagger).post("/tag?title=shoe&top=2", content=b"12345", headers=JPEG)
    assert answer.json() == {"shoe": 7}


def test_multipart_has_a_file_and_fields(face, tagger) -> None:
    files = {"image": ("a.jpg", b"123", "image/jpeg")}
    answer = face(tagger).post("/tag", files=files, data={"title": "hat", "top": "1"})
    assert answer.json() == {"hat": 4}


def test_json_has_the_picture_as_a_url(face, tagger) -> None:
    answer = face(tagger).post("/tag", json={"image": "http://a.example/b", "title": "x"})
    assert answer.json() == {"x": len("http://a.example/b")}


def test_the_same_application_answers_under_its_name(face, tagger) -> None:
    client = face(tagger)
    assert client.get("/tag/healthz").status_code == client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"", JPEG, "empty"),
        (b"", JSON, "image"),
        (b"{", JSON, "JSON"),
        (b"\xff\xfe", JSON, "JSON"),
        (b"[1]", JSON, "object"),
        (b'{"title": "x"}', JSON, "image"),
        (b'{"image": 3}', JSON, "image"),
        (b'{"image": "http://x", "top": "many"}', JSON, "top"),
        (b"--x\r\nbroken", {"content-type": "multipart/form-data; boundary=x"}, ""),
        (b"--x", {"content-type": "multipart/form-data"}, "form"),
    ],
)
def test_what_does_not_validate_is_422(face, tagger, body, headers, words) -> None:
    document = problem(face(tagger).post("/tag", content=body, headers=headers), 422)
    assert words in document["detail"]


def test_every_wrong_field_is_listed(face, tagger) -> None:
    document = problem(face(tagger).post("/tag", json={"title": 1, "top": "x"}), 422)
    assert {tuple(error["loc"]) for error in document["errors"]} == {
        ("body", "image"),
        ("body", "title"),
        ("body", "top"),
    }


def test_an_empty_file_is_422(face, tagger) -> None:
    files = {"image": ("a.jpg", b"", "image/jpeg")}
    assert "empty" in problem(face(tagger).post("/tag", files=files), 422)["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/pdf", "nonsense", ""])
def test_an_unknown_content_type_is_415(face, tagger, kind) -> None:
    document = problem(face(tagger).post("/tag", content=b"1", headers={"content-type": kind}), 415)
    assert "content type" in document["detail"]


def test_a_body_of_50_megabytes_is_413(face, tagger) -> None:
    body = bytes(50 * 2**20)
    problem(face(tagger).post("/tag", content=body, headers=JPEG), 413)


def test_a_chunked_body_is_cut_off_at_the_limit(face, tagger) -> None:
    client = face(tagger, limits=Limits(max_body_bytes=1000))
    taken = []

    def chunks():
        for i in range(10):
            taken.append(i)
            yield bytes(300)

    problem(client.post("/tag", content=chunks(), headers=JPEG), 413)
    assert client.post("/tag", content=iter([b"12", b"3"]), headers=JPEG).json() == {"untitled": 3}


@pytest.mark.parametrize("declared", ["3", "-1", "²", "1000", "9" * 5_000, None])
def test_the_bytes_of_a_body_count_whatever_is_declared(face, tagger, declared) -> None:
    client = face(tagger, limits=Limits(max_body_bytes=1000))
    length = [] if declared is None else [(b"content-length", declared.encode("latin-1"))]
    headers = [(b"content-type", b"image/jpeg"), *length]
    chunks = (bytes(300) for _ in range(10))
    problem(client.post("/tag", content=chunks, headers=headers), 413)


def compressed_in_members(body: bytes) -> bytes:
    """A gzip file of several members, an empty one among them, as ``cat a.gz b.gz`` makes."""
    middle = len(body) // 2
    return b"".join(gzip.compress(part) for part in (body[:middle], b"", body[middle:]))


ENCODINGS = {
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}


COMPRESSIONS = [*ENCODINGS.items(), ("gzip", compressed_in_members)]


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
@pytest.mark.parametrize("kind", ["JSON", "form", "raw", "chunked"])
def test_a_compressed_body_is_decompressed(face, tagger, encoding, compress, kind) -> None:
    client = face(tagger)
    form = {"files": {"image": ("a.jpg", b"123", "image/jpeg")}, "data": {"title": "hat"}}
    request = {
        "JSON": client.build_request("POST", "/tag", json={"image": "data:,123", "title": "hat"}),
        "form": client.build_request("POST", "/tag", **form),
    }.get(kind, client.build_request("POST", "/tag?title=hat", content=b"123", headers=JPEG))
    body = compress(request.read())
    headers = {"content-type": request.headers["content-type"], "content-encoding": encoding}
    parts = (body[i : i + 1] for i in range(len(body)))
    content = parts if kind == "chunked" else body
    answer = client.post(request.url, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["hat"]


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("gzip", compressed_in_members), ("deflate", zlib.compress)],
)
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (50 * 2**20, 413)])
def test_a_compressed_body_is_measured_decompressed(
    face, tagger, encoding, compress, size, status
) -> None:
    client = face(tagger, limits=Limits(max_body_bytes=1000))
    body = compress(bytes(size))  # of one message, so that a bomb is met as a whole
    answer = client.post(
        "/tag", content=iter([body]), headers=JPEG | {"content-encoding": encoding}
    )
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("gzip", compressed_in_members), ("deflate", zlib.compress)],
)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda body: b"x" + body, "header"),
        (lambda body: body[:-5], "it ends too early"),
        (lambda body: body + b"x" * 20, "header|goes on after its end"),
        (lambda body: body + body[:-5], "too early|goes on after its end"),
        (lambda body: b"", "it ends too early"),
        (lambda body: b"123", "header"),
    ],
    ids=["start", "end", "more", "second", "none", "plain"],
)
def test_a_damaged_compressed_body_is_422(face, tagger, encoding, compress, damage, reason) -> None:
    body = damage(compress(b"123" * 30))
    answer = face(tagger).post("/tag", content=body, headers=JPEG | {"content-encoding": encoding})
    detail = problem(answer, 422)["detail"]
    assert "cannot be decompressed" in detail
    assert re.search(reason, detail)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_an_unknown_content_encoding_is_415(face, tagger, encoding) -> None:
    answer = face(tagger).post("/tag", content=b"1", headers=JPEG | {"content-encoding": encoding})
    assert "gzip or deflate" in problem(answer, 415)["detail"]


def test_a_step_refuses_its_input_in_its_own_words(face, tagger) -> None:
    client = face(tagger)
    document = problem(client.post("/tag", content=b"bad", headers=JPEG), 422)
    assert "no picture in it" in document["detail"]
    assert document["step"] == "look"
    assert not client.served.failures.last


def test_a_failing_step_is_named_and_its_traceback_is_kept(face, tagger) -> None:
    client = face(tagger)
    answer = client.post("/tag", content=b"boom", headers=JPEG)
    document = problem(answer, 500)
    (failure,) = client.served.failures.last
    assert (document["step"], document["failure_id"]) == ("look", failure.id)
    assert "raise ValueError" in failure.traceback
    assert "no boom please" not in answer.text
    assert "no boom please" in failure.error
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    assert client.post("/tag", content=b"1", headers=JPEG).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/tag", 405), ("GET", "/no", 404)])
def test_other_methods_and_paths_are_problems_too(face, tagger, method, path, status) -> None:
    problem(face(tagger).request(method, path), status)


def test_it_is_not_ready_before_its_pipeline_is(face, tagger) -> None:
    client = face(tagger, ready=False)
    answer = client.post("/tag", content=b"1", headers=JPEG)
    assert problem(answer, 503)
    assert answer.headers["retry-after"]
    assert (client.get("/readyz").status_code, client.get("/healthz").status_code) == (503, 200)


@pytest.fixture
def waiting():
    """A pipeline that waits for ``go``."""
    go = threading.Event()

    @step
    def wait(x: int) -> int:
        go.wait(10)
        return x

    @pipeline
    def slow(x: int) -> int:
        return wait(x)

    slow_and_go = (slow, go)
    yield slow_and_go
    go.set()


def test_too_many_requests_are_503_with_a_time_to_come_back(face, waiting) -> None:
    slow, go = waiting
    client = face(slow, limits=Limits(max_ongoing_requests=1))
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/slow", json={"x": 1})))
    first.start()
    while client.served.executor.in_flight == 0:
        time.sleep(0.001)
    refused = client.post("/slow", json={"x": 2})
    go.set()
    first.join()
    assert problem(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert answers[0].json() == 1


def test_a_request_past_its_deadline_is_504(face, waiting) -> None:
    slow, _ = waiting
    client = face(slow, limits=Limits(request_timeout_s=0.05))
    problem(client.post("/slow", json={"x": 1}), 504)


def test_limits_have_to_be_positive() -> None:
    with pytest.raises(Exception, match="positive"):
        Limits(max_body_bytes=0)


# ---- description --------------------------------------------------------------------------------


def references(document):
    """Yields every ``$ref`` of a document."""
    if isinstance(document, dict):
        if isinstance(document.get("$ref"), str):
            yield document["$ref"]
        for value in document.values():
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def check_description(client, name):
    document = client.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    schemas = document["components"]["schemas"]
    found = list(references(document))
    assert found
    assert all(ref.rpartition("/")[2] in schemas for ref in found), found
    return document["paths"][f"/{name}"]["post"]


def test_the_description_is_openapi_and_knows_every_body(face, tagger) -> None:
    post = check_description(face(tagger), "tag")
    assert post["summary"] == "Tag one product."
    assert set(post["requestBody"]["content"]) == {
        "application/json",
        "image/*",
        "multipart/form-data",
    }
    assert {"200", "401", "413", "415", "422", "424", "500", "503", "504"} <= set(post["responses"])


def test_the_documentation_page_needs_nothing_from_outside(face, tagger) -> None:
    client = face(tagger)
    page = client.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    assert '"//' not in page.text
    for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"swagger/{file}" in page.text
        assert client.get(f"/swagger/{file}").status_code == 200
    assert client.get("/swagger/..%2f__init__.py").status_code == 404


@pytest.mark.parametrize("name", ["docs", "healthz", "openapi", "swagger", "größe", "__init__"])
def test_any_name_of_a_pipeline_is_served(face, name) -> None:
    @step
    def add(x: int) -> int:
        return x + 1

    def source(x: int) -> int:
        "</script><script>alert(1)</script> {{ 7*7 }} ${x} `rm`"
        return add(x)

    source.__name__ = source.__qualname__ = name
    client = face(pipeline(source))
    assert client.post(f"/{name}", json={"x": 1}).json() == 2
    assert client.get("/healthz").json() == {"status": "ok"}
    check_description(client, name)
    assert "<script>alert" not in client.get("/docs").text


def test_a_pipeline_of_plain_values_takes_json_alone(face) -> None:
    @step
    def join(words: list[str], sep: str) -> str:
        return sep.join(words)

    @pipeline
    def joined(words: list[str], sep: str = "-") -> str:
        return join(words, sep)

    client = face(joined)
    assert client.post("/joined", json={"words": ["a", "b"]}).json() == "a-b"
    problem(client.post("/joined", content=b"x", headers=JPEG), 415)
    post = check_description(client, "joined")
    assert set(post["requestBody"]["content"]) == {"application/json"}


def test_a_pipeline_without_required_arguments_takes_an_empty_object(face) -> None:
    @step
    def twice(x: int) -> int:
        return 2 * x

    @pipeline
    def easy(x: int = 4) -> int:
        return twice(x)

    client = face(easy)
    assert client.post("/easy", json={}).json() == 8
    assert client.post("/easy", content=b"", headers=JSON).json() == 8


def test_words_of_an_error_may_be_anything(face) -> None:
    @step
    def fail(x: str) -> str:
        raise InputError(x)

    @pipeline
    def echo(x: str) -> str:
        return fail(x)

    words = "\x00\r\nX-Evil: 1 \ud7ff ☃ </script>"
    answer = face(echo).post("/echo", content=json.dumps({"x": words}), headers=JSON)
    assert printable(words) in problem(answer, 422)["detail"]
    assert "x-evil" not in answer.headers
