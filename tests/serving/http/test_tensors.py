"""Tensors on the wire, in both forms."""

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlkit.errors import InputError
from mlkit.serving.http.tensors import (
    BINARY_HEADER,
    DATATYPES,
    InferRequest,
    Tensor,
    array_of,
    datatype_of,
    encode_response,
    objects,
)

NUMBERS = st.sampled_from([np.dtype(code).newbyteorder("=") for code in DATATYPES.values()])
ARRAYS = NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3)))


def back(values, *, binary):
    """What a client reads of a response, read as a request."""
    body, headers = encode_response({}, "x", values, binary=binary)
    length = int(headers[BINARY_HEADER]) if binary else None
    document = json.loads(body[:length])
    document["inputs"] = document.pop("outputs")
    head = json.dumps(document).encode()
    rest = b"" if length is None else body[length:]
    return InferRequest(head + rest, len(head) if binary else None).tensors["x"]


@settings(deadline=None)
@given(ARRAYS)
def test_numbers_come_back_as_they_were_in_binary(values) -> None:
    again = back(values, binary=True)
    assert again.dtype == values.dtype
    np.testing.assert_array_equal(again, values)


@settings(deadline=None)
@given(ARRAYS)
def test_numbers_come_back_in_json_but_infinity(values) -> None:
    again = back(values, binary=False)
    assert (again.dtype, again.shape) == (values.dtype, values.shape)
    expected = np.where(np.isfinite(values), values, np.nan) if values.dtype.kind == "f" else values
    np.testing.assert_array_equal(again, expected.astype(values.dtype))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1))
def test_bytes_come_back_in_binary(elements) -> None:
    assert list(back(objects(elements), binary=True)) == elements


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_come_back_in_both_forms(elements) -> None:
    assert list(back(objects(elements), binary=False)) == elements
    assert [e.decode() for e in back(objects(elements), binary=True)] == elements


def test_the_binary_form_is_that_of_the_specification() -> None:
    """Triton's documentation: lengths in four bytes, little endian; row-major order."""
    body, headers = encode_response({}, "x", objects(["ab", ""]), binary=True)
    length = int(headers[BINARY_HEADER])
    assert body[length:] == struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0)
    (output,) = json.loads(body[:length])["outputs"]
    assert output == {
        "name": "x",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": 10},
    }
    turned = np.asfortranarray(np.array([[1, 2], [3, 4]], np.int16))
    body, headers = encode_response({}, "x", turned, binary=True)
    assert body[int(headers[BINARY_HEADER]) :] == struct.pack("<4h", 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT8", [1], [300]),
        ("INT64", [1], [1.5]),
        ("INT64", [1], [True]),
        ("BOOL", [1], [1]),
        ("FP32", [1], ["1"]),
        ("FP32", [2], [1.0]),
        ("BYTES", [1], [1]),
        ("BYTES", [2], ["a"]),
        ("BF16", [1], [1.0]),
        ("FP32", [1], None),
        ("FP32", [1], memoryview(b"123")),
        ("BYTES", [1], memoryview(b"\x05\0\0\0abc")),
        ("BYTES", [1], memoryview(b"\x05\0")),
    ],
)
def test_data_that_do_not_fit_are_refused(datatype, shape, data) -> None:
    with pytest.raises(InputError, match=r"^x: "):
        array_of(Tensor(name="x", shape=shape, datatype=datatype), data)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_body_is_read_or_refused(body, length) -> None:
    parameters = {"binary_data_size": length}
    described = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [described]}).encode()
    with contextlib.suppress(InputError):
        assert InferRequest(head + body, len(head)).tensors["x"].shape == (1,)


def test_json_may_be_flat_or_nested() -> None:
    tensor = Tensor(name="x", shape=[2, 2], datatype="FP32")
    flat, nested = array_of(tensor, [1, 2, 3, 4]), array_of(tensor, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(flat, nested)
    assert np.isnan(array_of(Tensor(name="x", shape=[1], datatype="FP64"), [None]))[0]


def test_datatypes() -> None:
    assert datatype_of(np.dtype("float32")) == "FP32"
    assert datatype_of(np.dtype("complex64")) is None
    with pytest.raises(InputError, match="complex64"):
        encode_response({}, "x", np.zeros(1, np.complex64), binary=True)
