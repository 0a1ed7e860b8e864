"""Triton's own HTTP client, unchanged, against a server of the protocol; skipped without it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mlkit import Image, pipeline, step
from mlkit.serving import asgi

triton = pytest.importorskip("tritonclient.http")

TOKEN = "t0ken"


def authorized():
    """Headers for one call: the client adds its own to the dict."""
    return {"Authorization": f"Bearer {TOKEN}"}


@step
def measure(
    image: Image, vector: NDArray[np.float32], title: str, words: list[str] | None
) -> NDArray[np.float32]:
    if title == "boom":
        raise ValueError("secret")
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


@pytest.fixture(scope="module")
def connect(listen):
    """Returns a function: pipeline to a client of its application."""

    def start(pipe):
        address = listen(asgi(pipe, token=TOKEN)).removeprefix("http://")
        return triton.InferenceServerClient(address, network_timeout=60)

    return start


def tensor(name, array, datatype, binary):
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def texts(*values):
    return np.array([value.encode() for value in values], np.object_)


@pytest.fixture(scope="module")
def picture():
    return Image.open(np.zeros((8, 12, 3), np.uint8)).thumbnail_png()


def test_health_and_metadata(connect) -> None:
    client = connect(measured)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("measured", headers=authorized())
    assert "binary_tensor_data" in client.get_server_metadata(headers=authorized())["extensions"]
    metadata = client.get_model_metadata("measured", headers=authorized())
    names = {given["name"]: given["datatype"] for given in metadata["inputs"]}
    assert names == {"image": "BYTES", "vector": "FP32", "title": "BYTES", "words": "BYTES"}


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_output", [True, False])
def test_arrays_text_and_pictures(connect, picture, compression, binary_output) -> None:
    client = connect(measured)
    vector = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [
        tensor("image", np.array([picture], np.object_), "BYTES", True),
        tensor("vector", vector, "FP32", True),
        tensor("title", texts("größe"), "BYTES", False),
        tensor("words", texts("a", "b"), "BYTES", True),
    ]
    outputs = [triton.InferRequestedOutput("output", binary_data=binary_output)]
    result = client.infer(
        "measured",
        inputs,
        outputs=outputs,
        request_id="42",
        headers=authorized(),
        request_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(result.as_numpy("output"), vector * 12 + 2 + 5)
    assert result.get_response()["id"] == "42"


def test_text_comes_back(connect) -> None:
    client = connect(greeting)
    name = tensor("name", texts("größe"), "BYTES", True)
    result = client.infer("greeting", [name], headers=authorized())
    assert [text.decode() for text in result.as_numpy("output")] == ["hello größe"]


def test_errors_are_read(connect, picture) -> None:
    client = connect(measured)
    inputs = [
        tensor("image", np.array([picture], np.object_), "BYTES", True),
        tensor("vector", np.ones(1, np.float32), "FP32", True),
    ]
    with pytest.raises(triton.InferenceServerException, match="there is no model 'other'"):
        client.infer("other", inputs, headers=authorized())
    with pytest.raises(triton.InferenceServerException, match="vector: Field required"):
        client.infer("measured", inputs[:1], headers=authorized())
    boom = tensor("title", texts("boom"), "BYTES", True)
    with pytest.raises(triton.InferenceServerException, match="step 'measure' failed: ValueError"):
        client.infer("measured", [*inputs, boom], headers=authorized())
    with pytest.raises(triton.InferenceServerException, match="bearer token"):
        client.infer("measured", inputs)
