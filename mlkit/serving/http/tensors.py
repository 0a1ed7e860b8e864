"""Tensors of the Open Inference Protocol (v2), in JSON and in Triton's binary extension.

A request is a JSON document. With ``Inference-Header-Content-Length: N``, only its first N bytes
are; after them come the values of the tensors whose parameter ``binary_data_size`` is set, one
after the other, in row-major order and little endian. Elements of ``BYTES`` are each preceded by
their length, in four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from mlkit.define.port import json_text
from mlkit.errors import InputError

__all__ = [
    "BINARY_HEADER",
    "BYTES",
    "DATATYPES",
    "InferRequest",
    "Tensor",
    "TensorRequest",
    "array_of",
    "binary_elements",
    "datatype_of",
    "encode_response",
    "objects",
]

BINARY_HEADER = "Inference-Header-Content-Length"
"""Length of the JSON in a body that has binary tensors after it."""

BYTES = "BYTES"
"""Datatype of texts and files."""

DATATYPES: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""numpy's dtypes of datatypes; ``BYTES`` has none."""

_LENGTH = struct.Struct("<I")


MAX_AXES = 32


class Tensor(BaseModel):
    """A tensor of a request."""

    name: str
    shape: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=MAX_AXES)
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: Any = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class TensorRequest(BaseModel):
    """The JSON document of a request."""

    id: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[Tensor]
    outputs: list[_Output] = Field(default_factory=list)


class InferRequest:
    """A request with the values of its tensors.

    Attributes:
        document: the JSON document.
        tensors: arrays by name; elements of ``BYTES`` are ``str`` where they were JSON, else
            ``bytes``.

    Raises:
        pydantic.ValidationError: the document is not a request.
        InputError: data do not match the shape and the datatype of their tensor.
    """

    def __init__(self, body: bytes, json_length: int | None) -> None:
        if json_length is not None and not 0 <= json_length <= len(body):
            raise InputError(f"{BINARY_HEADER} exceeds the body")
        self.document = TensorRequest.model_validate_json(body[:json_length])
        binary = memoryview(b"" if json_length is None else body[json_length:])
        self.tensors: dict[str, Any] = {}
        for tensor in self.document.inputs:
            size = tensor.parameters.get("binary_data_size")
            if tensor.name in self.tensors:
                raise InputError(f"{tensor.name}: duplicate input")
            if size is None:
                self.tensors[tensor.name] = array_of(tensor, tensor.data)
                continue
            if type(size) is not int or not 0 <= size <= len(binary):
                raise InputError(f"{tensor.name}: binary_data_size exceeds the body")
            self.tensors[tensor.name] = array_of(tensor, binary[:size])
            binary = binary[size:]
        if binary:
            raise InputError(f"{len(binary):,} bytes after the last tensor")

    def wants_binary(self, name: str) -> bool:
        """Whether an output is to be sent in the binary form."""
        wanted = self.document.parameters.get("binary_data_output", False)
        for output in self.document.outputs:
            if output.name == name:
                wanted = output.parameters.get("binary_data", wanted)
        return bool(wanted)


def array_of(tensor: Tensor, data: Any) -> Any:
    """Return the values of a tensor as an array of its shape.

    Args:
        tensor: its description.
        data: the binary form, as a memoryview, or JSON: flat or nested lists.

    Raises:
        InputError: they do not match shape and datatype.
    """
    if tensor.datatype != BYTES and tensor.datatype not in DATATYPES:
        known = ", ".join([*DATATYPES, BYTES])
        raise InputError(f"{tensor.name}: datatype {tensor.datatype!r} is not one of {known}")
    if isinstance(data, memoryview):
        flat = _elements(tensor, data) if tensor.datatype == BYTES else _numbers(tensor, data)
    else:
        flat = _from_json(tensor, data)
    if len(flat) != prod(tensor.shape):
        raise InputError(
            f"{tensor.name}: {len(flat):,} values do not have the shape {tensor.shape}"
        )
    try:
        return flat.reshape(tensor.shape)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{tensor.name}: shape {tensor.shape}: {error}") from None


def _numbers(tensor: Tensor, data: memoryview) -> Any:
    dtype = np.dtype(DATATYPES[tensor.datatype])
    if len(data) % dtype.itemsize:
        raise InputError(f"{tensor.name}: {len(data):,} bytes are not valid {tensor.datatype}")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


def _elements(tensor: Tensor, data: memoryview) -> Any:
    elements = []
    while data:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 0
        if not _LENGTH.size <= end <= len(data):
            raise InputError(f"{tensor.name}: the length of an element exceeds the data")
        elements.append(bytes(data[_LENGTH.size : end]))
        data = data[end:]
    return objects(elements)


def objects(values: Sequence[Any]) -> Any:
    """Return texts or bytes as the elements of an array in one dimension."""
    """Return texts or bytes as the elements of an array in one dimension."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _from_json(tensor: Tensor, data: Any) -> Any:
    if data is None:
        raise InputError(f"{tensor.name}: there are neither data nor binary_data_size")
    values = list(_flat(data))
    if tensor.datatype == BYTES:
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{tensor.name}: data of BYTES are strings in JSON")
        return objects(values)
    dtype = np.dtype(DATATYPES[tensor.datatype])
    allowed = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float, type(None))}[dtype.kind]
    if not all(type(value) in allowed for value in values):
        raise InputError(f"{tensor.name}: data are not valid {tensor.datatype}")
    try:
        return np.asarray(values, dtype.newbyteorder("="))  # null is NaN
    except OverflowError as error:
        raise InputError(f"{tensor.name}: data are not valid {tensor.datatype}: {error}") from None


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _flat(item)
    else:
        yield data


def binary_elements(elements: Iterable[bytes]) -> bytes:
    """Return the elements of ``BYTES`` in the binary form, each after its length."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def datatype_of(dtype: Any) -> str | None:
    """Return the datatype of a numpy dtype, or None."""
    names = (name for name, code in DATATYPES.items() if np.dtype(code) == dtype)
    return next(names, None)


def encode_response(
    document: dict[str, Any], name: str, values: Any, *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """Return the body of a response with one output, and its headers.

    Args:
        document: the other members of the response.
        name: of the output.
        values: array of numbers, or of objects: ``str`` or ``bytes``.
        binary: whether to send it in the binary form.
    """
    datatype = BYTES if values.dtype == object else datatype_of(values.dtype)
    if datatype is None:
        raise InputError(
            f"an array of {values.dtype} cannot be sent as a tensor", fix="return another dtype"
        )
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    if not binary:
        text = json_text({**document, "outputs": [{**output, "data": values.ravel().tolist()}]})
        return text, {"Content-Type": "application/json"}
    if datatype == BYTES:
        data = binary_elements(v.encode() if isinstance(v, str) else v for v in values.ravel())
    else:
        data = np.ascontiguousarray(values, DATATYPES[datatype]).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    text = json_text({**document, "outputs": [output]})
    headers = {"Content-Type": "application/octet-stream", BINARY_HEADER: str(len(text))}
    return text + data, headers
