import json
from types import SimpleNamespace

import pandas as pd
import pytest

from mlkit.errors import LoadError
from mlkit.load.requests import HttpRequest, as_list, preparer, wire

URL = "http://127.0.0.1:8000/tag?x=1"


def prepared(payload, target=URL):
    return preparer(target).prepare(payload)


def headers(request):
    head = wire(request)[1].partition(b"\r\n\r\n")[0].decode()
    return dict(line.split(": ", 1) for line in head.split("\r\n")[1:])


def test_a_request_on_the_wire():
    place, raw = wire(HttpRequest(url=URL, headers={"X-Token": "abc"}, body=b"1234"))
    assert place == ("127.0.0.1", 8000, False)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /tag?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert b"\r\nX-Token: abc\r\n" in head
    assert head.endswith(b"Content-Length: 4")
    assert body == b"1234"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"image": "a", "n": [1]}, "application/json"),
        ("text", "application/json"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF0000WEBP", "image/webp"),
        (b"other", "application/octet-stream"),
    ],
)
def test_a_url_is_posted_each_payload_as_what_it_is(payload, kind):
    request = prepared(payload)
    assert (request.method, headers(request)["Content-Type"]) == ("POST", kind)
    sent = wire(request)[1].partition(b"\r\n\r\n")[2]
    assert sent == payload if isinstance(payload, bytes) else json.loads(sent) == payload


def test_no_payload_is_a_get_without_a_body():
    _, raw = wire(prepared(None))
    assert raw.startswith(b"GET /tag?x=1 HTTP/1.1\r\n")
    assert b"Content-Length" not in raw


def test_requests_written_out_are_sent_as_they_are():
    request = HttpRequest(method="PUT", url="http://127.0.0.1:9/y", body=b"z")
    assert prepared(request) is request
    foreign = SimpleNamespace(method="PUT", url="http://h/", headers={}, body=b"")
    assert prepared(foreign) is foreign


def test_a_target_prepares_its_own_payloads():
    app = SimpleNamespace(prepare=lambda payload: HttpRequest(url=f"http://h/{payload}"))
    assert prepared("a", app).url == "http://h/a"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://h/x", ("h", 80, False)),
        ("https://h", ("h", 443, True)),
        ("http://[::1]:81/", ("::1", 81, False)),
    ],
)
def test_places(url, place):
    assert wire(HttpRequest(url=url))[0] == place


def test_user_and_password_do_not_end_up_in_the_host_header():
    assert headers(HttpRequest(url="http://u:p@h:81/"))["Host"] == "h:81"


def test_framing_headers_are_the_generators_own():
    request = HttpRequest(url=URL, headers={"content-length": "9", "Transfer-Encoding": "chunked"})
    assert headers(request)["Content-Length"] == "0"
    assert "Transfer-Encoding" not in headers(request)


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest(url=URL, headers={"X": "a\r\nEvil: 1"}),
        HttpRequest(url="ftp://h/x"),
        HttpRequest(url="nonsense"),
    ],
)
def test_what_cannot_be_sent_safely_is_refused(request_):
    with pytest.raises(LoadError):
        wire(request_)


def test_rows_of_a_frame_become_dicts():
    frame = pd.DataFrame({"image": ["a", "b"], "title": ["x", "y"]})
    assert as_list(frame) == [{"image": "a", "title": "x"}, {"image": "b", "title": "y"}]


def test_any_iterable_of_payloads_will_do():
    assert as_list(range(3)) == [0, 1, 2]


@pytest.mark.parametrize("payloads", ["text", b"bytes", {"a": 1}, None, [], 7])
def test_a_single_payload_or_none_is_refused(payloads):
    with pytest.raises(LoadError, match="payload"):
        as_list(payloads)


def test_a_pipeline_that_is_not_deployed_is_refused_with_advice():
    with pytest.raises(LoadError, match="deploy the pipeline first"):
        preparer(lambda: None)
