"""Messages become requests of the HTTP routes, and their answers messages: no server anywhere."""

import json

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlkit.errors import InputError
from mlkit.serving.gateway.messages import message
from mlkit.serving.gateway.translate import RouteAnswer, failure, request_of, response_of
from mlkit.serving.http.tensors import (
    BINARY_HEADER,
    BYTES,
    DATATYPES,
    InferRequest,
    binary_elements,
    encode_response,
    objects,
)

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def infer(*inputs, raw=(), **more):
    """A request of tensors: name, datatype, shape, and the contents of their type."""
    request = message("ModelInferRequest")(model_name="m", raw_input_contents=raw, **more)
    for name, datatype, shape, contents in inputs:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if contents is not None:
            tensor.contents.SetInParent()
            for field, values in contents.items():
                getattr(tensor.contents, field).extend(values)
    return request


def received(request):
    """The request as the route reads it."""
    http = request_of("ModelInfer", request)
    return InferRequest(http.body, int(http.headers[BINARY_HEADER]))


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(array_shapes(min_dims=0, min_side=0, max_side=4))
    return datatype, draw(arrays(np.dtype(DATATYPES[datatype]), shape))


@given(st.lists(tensors(), min_size=1, max_size=3))
def test_raw_and_typed_contents_are_the_arrays_that_were_sent(sent) -> None:
    heads = [(f"x{n}", datatype, list(a.shape)) for n, (datatype, a) in enumerate(sent)]
    raw = infer(*((*head, None) for head in heads), raw=[a.tobytes() for _, a in sent])
    requests = [raw]
    if all(datatype in FIELDS for datatype, _ in sent):
        typed = [
            (*head, {FIELDS[datatype]: a.ravel().tolist()})
            for head, (datatype, a) in zip(heads, sent, strict=True)
        ]
        requests.append(infer(*typed))
    for request in requests:
        arrays = received(request).tensors
        assert list(arrays) == [name for name, _, _ in heads]
        for array, (_, expected) in zip(arrays.values(), sent, strict=True):
            np.testing.assert_array_equal(array, expected)


@given(st.lists(st.binary(max_size=9), max_size=4))
def test_bytes_are_the_same_raw_and_typed(elements) -> None:
    head = ("x", BYTES, [len(elements)])
    typed = received(infer((*head, {"bytes_contents": elements})))
    raw = received(infer((*head, None), raw=[binary_elements(elements)]))
    assert typed.tensors["x"].tolist() == raw.tensors["x"].tolist() == elements


def test_id_and_parameters_arrive_and_those_of_the_wire_do_not() -> None:
    request = infer(("x", "INT8", [1], {"int_contents": [3]}), id="42")
    request.parameters["mood"].string_param = "good"
    request.parameters["binary_data_output"].bool_param = False
    request.parameters["empty"].SetInParent()
    request.inputs[0].parameters["binary_data_size"].int64_param = 99
    request.inputs[0].parameters["scale"].double_param = 0.5
    request.outputs.add(name="output").parameters["binary_data"].bool_param = False
    arrived = received(request)
    assert arrived.document.id == "42"
    assert arrived.document.parameters == {"mood": "good", "binary_data_output": True}
    assert arrived.document.inputs[0].parameters == {"scale": 0.5, "binary_data_size": 1}
    assert arrived.wants_binary("output")


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (infer(("x", "INT8", [1], None), raw=[b"1", b"2"]), "2 raw_input_contents for 1 inputs"),
        (infer(("x", "INT8", [1], {"int_contents": [1]}), raw=[b"1"]), "x: both"),
        (infer(("x", "FP16", [1], {"fp32_contents": [1]})), "x: 'FP16' has no contents"),
        (infer(("x", "INT8", [1], {"int_contents": [300]})), "x: Python integer 300 out of"),
        (infer(("x", "UINT16", [1], {"uint_contents": [70_000]})), "x: Python integer 70000"),
    ],
)
def test_contents_that_do_not_fit_are_refused(request_, told) -> None:
    with pytest.raises(InputError, match=told):
        request_of("ModelInfer", request_)


@pytest.mark.parametrize(
    ("version", "path"),
    [("", "/v2/models/a%2F%3Fb"), ("v/1", "/v2/models/a%2F%3Fb/versions/v%2F1")],
)
def test_names_stay_one_segment_of_the_path(version, path) -> None:
    named = {"name": "a/?b", "version": version}
    assert request_of("ModelReady", message("ModelReadyRequest")(**named)).path == f"{path}/ready"
    assert request_of("ModelMetadata", message("ModelMetadataRequest")(**named)).path == path
    request = message("ModelInferRequest")(model_name="a/?b", model_version=version)
    assert request_of("ModelInfer", request).path == f"{path}/infer"


@pytest.mark.parametrize(
    ("values", "datatype", "raw"),
    [
        (np.arange(6, dtype=np.int16).reshape(2, 3), "INT16", np.arange(6, dtype="<i2").tobytes()),
        (objects(["größe", b"\0"]), BYTES, binary_elements(["größe".encode(), b"\0"])),
    ],
)
def test_a_result_is_a_raw_output(values, datatype, raw) -> None:
    document = {"model_name": "m", "model_version": "3", "id": "42"}
    body, headers = encode_response(document, "output", values, binary=True)
    answer = RouteAnswer(200, {name.lower(): value for name, value in headers.items()}, body)
    response = response_of("ModelInfer", answer)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "42")
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("output", datatype)
    assert tuple(output.shape) == values.shape
    assert list(response.raw_output_contents) == [raw]


@pytest.mark.parametrize("method", ["ServerReady", "ModelReady"])
@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_not_ready_is_an_answer(method, status, ready) -> None:
    response = response_of(method, RouteAnswer(status, {}, b'{"ready": false}'))
    assert response.ready is ready


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (400, {"error": "vector: no"}, "INVALID_ARGUMENT", "vector: no"),
        (401, {"detail": "a bearer token is needed"}, "UNAUTHENTICATED", "a bearer token"),
        (403, {"error": "no"}, "PERMISSION_DENIED", "no"),
        (404, {"error": "no"}, "NOT_FOUND", "no"),
        (413, {"error": "long"}, "RESOURCE_EXHAUSTED", "long"),
        (429, {"error": "slower"}, "RESOURCE_EXHAUSTED", "slower"),
        (500, {"error": "failed"}, "INTERNAL", "failed"),
        (503, {"error": "full"}, "UNAVAILABLE", "full"),
        (504, {"error": "late"}, "DEADLINE_EXCEEDED", "late"),
        (502, None, "UNAVAILABLE", "HTTP status 502"),
        (418, ["tea"], "UNKNOWN", "HTTP status 418"),
    ],
)
def test_errors_are_statuses(status, body, code, text) -> None:
    content = b"<html>" if body is None else json.dumps(body).encode()
    answer = RouteAnswer(status, {}, content)
    assert response_of("ModelInfer", answer) is None
    got, detail = failure(answer)
    assert got is grpc.StatusCode[code]
    assert detail.startswith(text)
