"""The Open Inference Protocol beside a pipeline's own route; requests are written by hand."""

import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.testclient import TestClient

from mlkit import Image, ImageSource, InputError, pipeline, step
from mlkit.serving import asgi

ADDRESS = "http://127.0.0.1"
TOKEN = "t0ken"


class Label(BaseModel):
    name: str
    score: float


def echo(annotation, returns=None):
    """A pipeline that returns its argument."""

    @step
    def same(x: annotation) -> returns or annotation:
        return x

    @pipeline
    def echoed(x: annotation) -> returns or annotation:
        return same(x)

    return echoed


@step
def judge(vector: NDArray[np.float32], label: str, factor: int) -> NDArray[np.float32]:
    if label == "bad":
        raise InputError("no such label", fix="send another")
    if label == "boom":
        raise ValueError("secret")
    return vector * factor


@pipeline
def scale(vector: NDArray[np.float32], label: str = "", factor: int = 2) -> NDArray[np.float32]:
    return judge(vector, label, factor)


@pytest.fixture
def client():
    """Returns a function: pipeline to a client of its application."""

    def make(pipe=scale, **options):
        return TestClient(asgi(pipe, **options), base_url=ADDRESS)

    return make


def tensor(name, datatype, data, shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def infer(client, *inputs, name="echoed", **more):
    return client.post(f"/v2/models/{name}/infer", json={"inputs": list(inputs), **more})


VECTOR = tensor("vector", "FP32", [1.0, 2.5, 3.0, 4.0], [2, 2])


@pytest.mark.parametrize("prefix", ["", "/scale"])
def test_server_and_health(client, prefix) -> None:
    ask = client()
    server = ask.get(f"{prefix}/v2").json()
    assert server["name"] == "mlkit"
    assert server["extensions"] == ["binary_tensor_data"]
    assert ask.get(f"{prefix}/v2/health/live").json() == {"live": True}
    assert ask.get(f"{prefix}/v2/health/ready").json() == {"ready": True}
    ready = ask.get(f"{prefix}/v2/models/scale/ready").json()
    assert ready == {"name": "scale", "ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_metadata_come_from_the_types(client, version) -> None:
    document = client().get(f"/v2/models/scale{version}").json()
    assert document["name"] == "scale"
    assert document["versions"] == ["1"]
    assert document["inputs"] == [
        {
            "name": "vector",
            "datatype": "FP32",
            "shape": [-1],
            "parameters": {"content_type": "np"},
        },
        {
            "name": "label",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"content_type": "text/plain", "optional": True},
        },
        {
            "name": "factor",
            "datatype": "INT64",
            "shape": [1],
            "parameters": {"content_type": "np", "optional": True},
        },
    ]
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"]) == ("output", "FP32")


def test_a_request_in_json(client) -> None:
    answer = infer(client(), VECTOR, name="scale", id="42", outputs=[{"name": "output"}])
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "scale",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "output", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 5.0, 6.0, 8.0]}
        ],
    }


def binary(inputs, parts, **more):
    """Body and headers of a request with binary tensors."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    return {
        "content": head + b"".join(parts),
        "headers": {"Inference-Header-Content-Length": str(len(head))},
    }


def test_a_request_with_binary_tensors(client) -> None:
    data = struct.pack("<2f", 1.5, -2.0)
    inputs = [
        {
            "name": "vector",
            "datatype": "FP32",
            "shape": [2],
            "parameters": {"binary_data_size": len(data)},
        },
        tensor("factor", "INT32", [3]),
    ]
    request = binary(inputs, [data], parameters={"binary_data_output": True})
    answer = client().post("/v2/models/scale/infer", **request)
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert struct.unpack("<2f", answer.content[length:]) == (4.5, -6.0)


@pytest.mark.parametrize(
    ("annotation", "datatype", "data", "content"),
    [
        (int, "INT64", [3], "np"),
        (float, "FP64", [0.5], "np"),
        (bool, "BOOL", [True], "np"),
        (str, "BYTES", ["größe"], "text/plain"),
        (list[float], "FP64", [0.5, 1.0], "np"),
        (list[str], "BYTES", ["a", "b"], "text/plain"),
        (NDArray[np.uint8], "UINT8", [1, 255], "np"),
        (Label, "BYTES", ['{"name":"a","score":0.5}'], "application/json"),
        (dict[str, int], "BYTES", ['{"a":1}'], "application/json"),
        (list[str | None], "BYTES", ['["a",null]'], "application/json"),
        (ImageSource, "BYTES", ["https://example.com/shoe.jpg"], "text/plain"),
        (int | None, None, None, "application/json"),
    ],
)
def test_each_type_is_a_tensor_or_json_and_metadata_say_which(
    client, annotation, datatype, data, content
) -> None:
    ask = client(echo(annotation))
    (output,) = ask.get("/v2/models/echoed").json()["outputs"]
    assert output["parameters"]["content_type"] == content
    if data is None:
        return
    assert output["datatype"] == datatype
    (output,) = infer(ask, tensor("x", datatype, data)).json()["outputs"]
    assert (output["datatype"], output["data"]) == (datatype, data)


def test_lists_of_lists_have_their_shape_and_return_as_json(client) -> None:
    ask = client(echo(list[list[int]]))
    (given,) = ask.get("/v2/models/echoed").json()["inputs"]
    assert (given["datatype"], given["shape"]) == ("INT64", [-1, -1])
    (output,) = infer(ask, tensor("x", "INT64", [1, 2, 3, 4], [2, 2])).json()["outputs"]
    assert output["data"] == ["[[1,2],[3,4]]"]


def test_pictures_are_bytes(client) -> None:
    picture = Image.open(np.zeros((4, 6, 3), np.uint8)).thumbnail_png()
    element = struct.pack("<I", len(picture)) + picture
    described = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(element)},
    }
    ask = client(echo(Image))
    for wanted in (True, False):
        outputs = [{"name": "output", "parameters": {"binary_data": wanted}}]
        request = binary([described], [element], outputs=outputs)
        answer = ask.post("/v2/models/echoed/infer", **request)
        if wanted:
            length = int(answer.headers["inference-header-content-length"])
            returned = answer.content[length + 4 :]
            assert Image.open(returned).width == 6
        else:
            (output,) = answer.json()["outputs"]
            assert output["data"][0].startswith("data:image/png;base64,")
            again = infer(ask, tensor("x", "BYTES", output["data"]))
            assert again.status_code == 200


def test_items_of_a_stream_are_a_tensor(client) -> None:
    @step
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @pipeline
    def counted(n: int) -> Iterator[int]:
        return count(n)

    (output,) = infer(client(counted), tensor("n", "INT32", [3]), name="counted").json()["outputs"]
    assert (output["datatype"], output["data"]) == ("INT64", [0, 1, 2])


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([], "vector"),
        ([VECTOR, tensor("other", "FP32", [1.0])], "other"),
        ([VECTOR, VECTOR], "vector"),
        ([tensor("vector", "BYTES", ["a"])], "FP32"),
        ([VECTOR, tensor("label", "FP32", [1.0])], "BYTES"),
        ([VECTOR, tensor("label", "BYTES", ["a", "b"])], "one element"),
        ([VECTOR, tensor("factor", "FP64", [1.5])], "factor"),
        ([tensor("vector", "FP32", [1.0], [3])], "shape"),
        ([{"name": "vector"}], "shape"),
    ],
)
def test_what_does_not_fit_is_400_in_the_protocols_shape(client, inputs, told) -> None:
    answer = infer(client(), *inputs, name="scale")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"[]", {}),
        (b"{", {}),
        (b"{}", {"Inference-Header-Content-Length": "x"}),
        (b"{}", {"Inference-Header-Content-Length": "5"}),
        (b"{}", {"Inference-Header-Content-Length": "9" * 5_000}),
        (b"\x1f\x8b", {"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_no_request_is_400(client, body, headers) -> None:
    answer = client().post("/v2/models/scale/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_errors_of_steps(client) -> None:
    bad = infer(client(), VECTOR, tensor("label", "BYTES", ["bad"]), name="scale")
    assert (bad.status_code, bad.json()["error"].split("\n")[0]) == (400, "no such label")
    boom = infer(client(), VECTOR, tensor("label", "BYTES", ["boom"]), name="scale")
    assert boom.status_code == 500
    assert "step 'judge' failed: ValueError (failure " in boom.json()["error"]
    assert "secret" not in boom.text


@pytest.mark.parametrize(
    "path", ["/other", "/scale/versions/2", "/other/ready", "/scale/versions/2/ready"]
)
def test_an_unknown_model_is_404(client, path) -> None:
    answer = client().get(f"/v2/models{path}")
    assert answer.status_code == 404
    assert "there is no model" in answer.json()["error"]


def test_an_unknown_output_is_refused(client) -> None:
    answer = infer(client(), VECTOR, name="scale", outputs=[{"name": "other"}])
    assert answer.status_code == 400
    assert "'other'" in answer.json()["error"]


def test_health_is_open_and_all_else_needs_the_token(client) -> None:
    ask = client(token=TOKEN)
    assert ask.get("/v2/health/live").status_code == 200
    assert ask.get("/v2/health/ready").status_code == 200
    assert ask.get("/v2").status_code == 401
    assert ask.get("/v2/models/scale").status_code == 401
    assert infer(ask, VECTOR, name="scale").status_code == 401
    ask.headers["Authorization"] = f"Bearer {TOKEN}"
    assert infer(ask, VECTOR, name="scale").status_code == 200


def test_a_route_of_the_user_under_v2_leaves_no_mixture(client) -> None:
    shop = FastAPI()

    @shop.get("/v2/products")
    def products() -> list[str]:
        return ["shoe"]

    ask = client(fastapi=shop)
    assert ask.get("/v2/products").json() == ["shoe"]
    assert ask.get("/v2/models/scale").status_code == 404
    assert infer(ask, VECTOR, name="scale").status_code == 404


def test_it_is_not_ready_before_the_pipeline_is(face) -> None:
    ask = face(scale, ready=False)
    assert ask.get("/v2/health/live").status_code == 200
    assert ask.get("/v2/health/ready").status_code == 503
    assert ask.get("/v2/models/scale/ready").status_code == 503
    answer = infer(ask, VECTOR, name="scale")
    assert (answer.status_code, answer.json()) == (503, {"error": "not ready yet"})
