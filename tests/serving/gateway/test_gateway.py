"""Calls of a plain gRPC client, through the gateway, to applications that listen."""

import json
import threading

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from mlkit import Image, InputError, pipeline, step
from mlkit.errors import DeployError
from mlkit.serving import Limits, asgi
from mlkit.serving.gateway.messages import message
from mlkit.serving.gateway.server import Gateway
from mlkit.serving.http.tensors import BINARY_HEADER, binary_elements, encode_response

from .conftest import running

TOKEN = "t0ken"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@step
def measure(image: Image, vector: NDArray[np.float32], title: str) -> NDArray[np.float32]:
    if title == "bad":
        raise InputError("no such title", fix="send another")
    if title == "boom":
        raise ValueError("secret")
    return vector * image.width + len(title)


@pipeline
def measured(image: Image, vector: NDArray[np.float32], title: str = "") -> NDArray[np.float32]:
    return measure(image, vector, title)


@pytest.fixture(scope="module")
def client(through, dial):
    application = asgi(measured, token=TOKEN, limits=Limits(max_body_bytes=2**20))
    return dial(through(application, max_body_bytes=2**20))


@pytest.fixture(scope="module")
def picture():
    return Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()


def infer(picture, *, title=None, vector=(0, 1, 2), typed=False, name="measured", **more):
    request = message("ModelInferRequest")(model_name=name, **more)
    values = np.array(vector, np.float32)
    given = [("image", "BYTES", [1], "bytes_contents", [picture])]
    given.append(("vector", "FP32", [len(vector)], "fp32_contents", values.tolist()))
    if title is not None:
        given.append(("title", "BYTES", [1], "bytes_contents", [title.encode()]))
    for key, datatype, shape, field, contents in given:
        tensor = request.inputs.add(name=key, datatype=datatype, shape=shape)
        if typed:
            getattr(tensor.contents, field).extend(contents)
        elif datatype == "BYTES":
            request.raw_input_contents.append(binary_elements(contents))
        else:
            request.raw_input_contents.append(values.tobytes())
    return request


def status(client, method, request=None, **metadata):
    with pytest.raises(grpc.RpcError) as raised:
        client(method, request, **metadata)
    return raised.value.code().name, raised.value.details()


def test_health_is_open(client) -> None:
    assert client("ServerLive").live
    assert client("ServerReady").ready


def test_metadata(client) -> None:
    server = client("ServerMetadata", **AUTHORIZED)
    assert server.name == "mlkit"
    named = message("ModelMetadataRequest")(name="measured")
    model = client("ModelMetadata", named, **AUTHORIZED)
    assert (model.name, model.platform, list(model.versions)) == ("measured", "mlkit", ["1"])
    described = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in model.inputs}
    assert described == {"image": ("BYTES", [1]), "vector": ("FP32", [-1]), "title": ("BYTES", [1])}
    ready = message("ModelReadyRequest")(name="measured", version="1")
    assert client("ModelReady", ready, **AUTHORIZED).ready


@pytest.mark.parametrize("typed", [True, False])
def test_an_inference(client, picture, typed) -> None:
    request = infer(picture, title="größe", typed=typed, id="42")
    response = client("ModelInfer", request, **AUTHORIZED)
    assert (response.model_name, response.id) == ("measured", "42")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output", "FP32", [3])
    values = np.frombuffer(response.raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(values, [5, 17, 29])


@pytest.mark.parametrize("metadata", [{}, {"authorization": "Bearer other"}])
@pytest.mark.parametrize("method", ["ServerMetadata", "ModelMetadata", "ModelReady", "ModelInfer"])
def test_all_but_health_needs_the_token(client, method, metadata) -> None:
    code, text = status(client, method, **metadata)
    assert (code, text) == ("UNAUTHENTICATED", "a bearer token is needed")


def test_the_token_may_be_in_mlkits_own_metadata(client) -> None:
    assert client("ServerMetadata", x_mlkit_token=TOKEN).name == "mlkit"


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ({"name": "other"}, "NOT_FOUND", "there is no model 'other'"),
        ({"name": "../health"}, "NOT_FOUND", "Not Found"),
        ({"model_version": "7"}, "NOT_FOUND", "no model 'measured' in version '7'"),
        ({"title": "bad"}, "INVALID_ARGUMENT", "no such title"),
        ({"title": "boom"}, "INTERNAL", "step 'measure' failed: ValueError"),
        ({"vector": np.zeros(2**18)}, "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_errors_are_statuses(client, picture, given, code, told) -> None:
    got, text = status(client, "ModelInfer", infer(picture, **given), **AUTHORIZED)
    assert got == code
    assert told in text
    assert "secret" not in text


def test_what_does_not_fit_is_told(client, picture) -> None:
    request = infer(picture)
    request.inputs[1].datatype = "INT64"
    code, text = status(client, "ModelInfer", request, **AUTHORIZED)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("vector: ")
    request.raw_input_contents.pop()
    code, text = status(client, "ModelInfer", request, **AUTHORIZED)
    assert (code, text) == ("INVALID_ARGUMENT", "1 raw_input_contents for 2 inputs")


def test_a_message_longer_than_the_limit_is_refused_before_it_is_read(client, picture) -> None:
    request = infer(picture, vector=np.zeros(2**20))
    code, text = status(client, "ModelInfer", request, **AUTHORIZED)
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in text


# ---- the request over HTTP ----------------------------------------------------------------------


class Recorded:
    """An application that keeps what it is asked, and answers when it may.

    Attributes:
        left: set once a client has gone before it was answered.
        may: set for answers to be sent.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.left, self.may, self.came = (threading.Event() for _ in range(3))
        self.status, self.answer = 200, {}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        self.headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        while (await receive()).get("more_body"):
            pass
        self.came.set()
        if not self.may.is_set():
            assert (await receive())["type"] == "http.disconnect"
            self.left.set()
            return
        body, headers = json.dumps(self.answer).encode(), {}
        if self.status == 200:
            body, headers = encode_response({"model_name": "m"}, "output", np.ones(1), binary=True)
        sent = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        sent += [(b"retry-after", b"1"), (b"x-request-id", b"c"), (b"x-other", b"1")]
        await send({"type": "http.response.start", "status": self.status, "headers": sent})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def recorded(through, dial):
    application = Recorded()
    return application, dial(through(application))


def test_what_is_passed_on_and_what_is_not(recorded) -> None:
    application, client = recorded
    application.may.set()
    sent = {
        "authorization": "Bearer a",
        "x-mlkit-token": "b",
        "x-request-id": "c",
        "x-priority": "bulk",
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        "tracestate": "d=1",
        "baggage": "e=1",
        "idempotency-key": "f",
    }
    client("ModelInfer", host="evil", origin="http://evil", cookie="g=1", **sent)
    assert sent.items() <= application.headers.items()
    assert {"origin", "cookie"}.isdisjoint(application.headers)
    assert application.headers["host"].startswith("127.0.0.1:")
    assert BINARY_HEADER.lower() in application.headers
    assert client.trailing["x-request-id"] == "c"
    assert "x-other" not in client.trailing


def test_an_app_without_a_token_can_tell_that_the_gateway_is_open_to_others(listen, dial) -> None:
    application = Recorded()
    application.may.set()
    with running(Gateway(listen(application), host="0.0.0.0")) as target:
        dial(target.replace("0.0.0.0", "127.0.0.1"))("ModelInfer")
        assert application.headers["host"] == target


@pytest.mark.parametrize(
    ("timeout", "given", "least", "most"),
    [(None, {}, None, None), (20.0, {}, 1, 20.5), (None, {"x_request_timeout_seconds": "3"}, 3, 3)],
)
def test_the_deadline_is_that_of_the_request(recorded, timeout, given, least, most) -> None:
    application, client = recorded
    application.may.set()
    client("ModelInfer", timeout=timeout, **given)
    asked = application.headers.get("x-request-timeout-seconds")
    assert (asked is None) if least is None else (least <= float(asked) <= most)


def test_a_call_that_is_cancelled_leaves_the_app(recorded) -> None:
    application, client = recorded
    call = client.start("ModelInfer")
    assert application.came.wait(30)
    call.cancel()
    assert application.left.wait(30)


def test_a_call_past_its_deadline_leaves_the_app(recorded) -> None:
    application, client = recorded
    code, _ = status(client, "ModelInfer", timeout=0.5)
    assert code == "DEADLINE_EXCEEDED"
    assert application.left.wait(30)


def test_an_app_that_is_full_is_unavailable_and_says_when_to_try_again(recorded) -> None:
    application, client = recorded
    application.may.set()
    application.status, application.answer = 503, {"error": "too many requests in flight"}
    code, text = status(client, "ModelInfer")
    assert (code, text) == ("UNAVAILABLE", "too many requests in flight")
    assert client.trailing["retry-after"] == "1"


def test_an_app_that_is_gone_is_unavailable(dial) -> None:
    with running(Gateway("http://127.0.0.1:9")) as target:
        code, text = status(dial(target), "ServerReady")
    assert (code, text) == ("UNAVAILABLE", "the app cannot be reached: ClientConnectorError")


def test_a_port_that_is_taken_is_told() -> None:
    with running(Gateway("http://127.0.0.1:9")) as target:
        port = int(target.rpartition(":")[2])
        taken = running(Gateway("http://127.0.0.1:9", port=port))
        with pytest.raises(DeployError, match=f"cannot listen on 127.0.0.1:{port} for gRPC"), taken:
            pass
