"""Triton's own gRPC client, unchanged, through the gateway; skipped without it."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mlkit import Image, pipeline, step
from mlkit.serving import asgi

if "kserve" in sys.modules:
    pytest.skip("two clients of the protocol do not fit into one process", allow_module_level=True)
triton = pytest.importorskip("tritonclient.grpc")

TOKEN = "t0ken"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@step
def measure(
    image: Image, vector: NDArray[np.float32], title: str, words: list[str] | None
) -> NDArray[np.float32]:
    return vector * image.width + len(words or ()) + len(title)


@pipeline
def measured(
    image: Image, vector: NDArray[np.float32], title: str = "", words: list[str] | None = None
) -> NDArray[np.float32]:
    return measure(image, vector, title, words)


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


@pytest.fixture(scope="module")
def connect(through):
    """Returns a function: pipeline to a client."""
    return lambda pipe: triton.InferenceServerClient(through(asgi(pipe, token=TOKEN)))


def tensor(name, array, datatype):
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


def texts(*values):
    return np.array([value.encode() for value in values], np.object_)


@pytest.fixture(scope="module")
def picture():
    return np.array([Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()], np.object_)


def test_health_and_metadata(connect) -> None:
    client = connect(measured)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("measured", headers=AUTHORIZED)
    assert client.get_server_metadata(headers=AUTHORIZED).name == "mlkit"
    metadata = client.get_model_metadata("measured", headers=AUTHORIZED, as_json=True)
    names = {given["name"]: given["datatype"] for given in metadata["inputs"]}
    assert names == {"image": "BYTES", "vector": "FP32", "title": "BYTES", "words": "BYTES"}


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("asked", [None, [triton.InferRequestedOutput("output")]])
def test_arrays_text_and_pictures(connect, picture, compression, asked) -> None:
    vector = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [
        tensor("image", picture, "BYTES"),
        tensor("vector", vector, "FP32"),
        tensor("title", texts("größe"), "BYTES"),
        tensor("words", texts("a", "b"), "BYTES"),
    ]
    result = connect(measured).infer(
        "measured",
        inputs,
        outputs=asked,
        request_id="42",
        headers=AUTHORIZED,
        client_timeout=30,
        compression_algorithm=compression,
    )
    np.testing.assert_array_equal(result.as_numpy("output"), vector * 12 + 2 + 5)
    assert result.get_response().id == "42"


def test_text_and_pictures_come_back(connect, picture) -> None:
    name = tensor("name", texts("größe"), "BYTES")
    greeted = connect(greeting).infer("greeting", [name], headers=AUTHORIZED)
    assert [text.decode() for text in greeted.as_numpy("output")] == ["hello größe"]
    image = tensor("image", picture, "BYTES")
    (data,) = connect(turned).infer("turned", [image], headers=AUTHORIZED).as_numpy("output")
    assert (Image.open(data).width, Image.open(data).height) == (8, 12)


def test_errors_are_read(connect, picture) -> None:
    client = connect(measured)
    image = tensor("image", picture, "BYTES")
    with pytest.raises(triton.InferenceServerException, match="there is no model 'other'"):
        client.infer("other", [image], headers=AUTHORIZED)
    with pytest.raises(triton.InferenceServerException, match="vector: Field required"):
        client.infer("measured", [image], headers=AUTHORIZED)
    with pytest.raises(triton.InferenceServerException, match="bearer token"):
        client.infer("measured", [image])
