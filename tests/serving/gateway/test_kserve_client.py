"""KServe's own clients, unchanged, over HTTP and gRPC; skipped without them."""

import asyncio
import base64
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mlkit import Image, pipeline, step
from mlkit.serving import asgi

if "tritonclient.grpc" in sys.modules:
    pytest.skip("two clients of the protocol do not fit into one process", allow_module_level=True)
kserve = pytest.importorskip("kserve")

TOKEN = "t0ken"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@step
def measure(image: Image, vector: NDArray[np.float32], title: str) -> NDArray[np.float32]:
    return vector * image.width + len(title)


@pipeline
def measured(image: Image, vector: NDArray[np.float32], title: str = "") -> NDArray[np.float32]:
    return measure(image, vector, title)


@step
def greet(name: str) -> str:
    return f"hello {name}"


@pipeline
def greeting(name: str) -> str:
    return greet(name)


@step
def turn(image: Image) -> Image:
    return Image.open(np.ascontiguousarray(np.rot90(image.pixels)))


@pipeline
def turned(image: Image) -> Image:
    return turn(image)


class OverHttp:
    """KServe's REST client of one application."""

    def __init__(self, url) -> None:
        self.url = url
        config = kserve.inference_client.RESTConfig(protocol="v2", timeout=60)
        self.client = kserve.InferenceRESTClient(config)

    async def health(self):
        return [
            await self.client.is_server_live(self.url),
            await self.client.is_server_ready(self.url),
        ]

    async def model_ready(self, name):
        return await self.client.is_model_ready(self.url, name, headers=dict(AUTHORIZED))

    async def infer(self, request, headers=AUTHORIZED):
        return await self.client.infer(
            self.url, request, model_name=request.model_name, headers=dict(headers)
        )

    async def close(self):
        await self.client.close()


class OverGrpc:
    """KServe's gRPC client of one application."""

    def __init__(self, target) -> None:
        self.client = kserve.InferenceGRPCClient(target)

    async def health(self):
        return [await self.client.is_server_live(), await self.client.is_server_ready()]

    async def model_ready(self, name):
        return await self.client.is_model_ready(name, headers=list(AUTHORIZED.items()))

    async def infer(self, request, headers=AUTHORIZED):
        return await self.client.infer(request, headers=list(headers.items()))

    async def close(self):
        await self.client.close()


@pytest.fixture(scope="module", params=["http", "grpc"])
def ask(request, listen, through):
    """Returns a function: pipeline, and what to do with a client, to what that returns."""

    def run(pipe, use):
        application = asgi(pipe, token=TOKEN)

        async def once():
            if request.param == "http":
                client = OverHttp(listen(application))
            else:
                client = OverGrpc(through(application))
            try:
                return await use(client)
            finally:
                await client.close()

        return asyncio.run(once())

    return run


def tensor(name, array, datatype, *, binary=True):
    made = kserve.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def texts(*values):
    return np.array([value.encode() for value in values], np.object_)


def request_of(name, *inputs):
    return kserve.InferRequest(model_name=name, infer_inputs=list(inputs), request_id="42")


@pytest.fixture(scope="module")
def picture():
    return np.array([Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()], np.object_)


def test_health(ask) -> None:
    async def use(client):
        return [*await client.health(), await client.model_ready("measured")]

    assert ask(measured, use) == [True, True, True]


def test_arrays_text_and_pictures(ask, picture) -> None:
    vector = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = request_of(
        "measured",
        tensor("image", picture, "BYTES"),
        tensor("vector", vector, "FP32"),
        tensor("title", texts("größe"), "BYTES"),
    )
    result = ask(measured, lambda client: client.infer(request))
    np.testing.assert_array_equal(result.outputs[0].as_numpy(), vector * 12 + 5)
    assert (result.id, result.model_name) == ("42", "measured")


@pytest.mark.parametrize("binary", [True, False])
def test_text_comes_back(ask, binary) -> None:
    request = request_of("greeting", tensor("name", texts("größe"), "BYTES", binary=binary))
    result = ask(greeting, lambda client: client.infer(request))
    (text,) = result.outputs[0].as_numpy().ravel()
    assert (text.decode() if isinstance(text, bytes) else text) == "hello größe"


def test_a_picture_comes_back(ask, picture) -> None:
    request = request_of("turned", tensor("image", picture, "BYTES"))
    result = ask(turned, lambda client: client.infer(request))
    (data,) = result.outputs[0].as_numpy().ravel()
    if isinstance(data, str):  # in JSON, it is a data: URL
        data = base64.b64decode(data.partition(",")[2])
    image = Image.open(data)
    assert (image.width, image.height) == (8, 12)


@pytest.mark.parametrize(
    ("name", "headers", "told"),
    [
        ("other", AUTHORIZED, "there is no model 'other'"),
        ("greeting", AUTHORIZED, "unknown: there is no such input"),
        ("greeting", {}, "401|bearer token"),
    ],
)
def test_errors_are_read(ask, name, headers, told) -> None:
    request = request_of(name, tensor("unknown", texts("a"), "BYTES"))
    with pytest.raises(Exception, match=told):
        ask(greeting, lambda client: client.infer(request, headers))
