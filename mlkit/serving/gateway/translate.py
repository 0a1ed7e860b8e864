"""From messages of gRPC to requests of the HTTP routes, and back: pure functions.

An inference becomes a request with Triton's binary tensors, which have the layout of
``raw_input_contents``: tensors are neither parsed nor checked here, but by the route.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from grpc import StatusCode

from mlkit.define.port import json_text
from mlkit.errors import InputError
from mlkit.serving.gateway.messages import message
from mlkit.serving.http.tensors import BINARY_HEADER, BYTES, DATATYPES, binary_elements

__all__ = ["RouteAnswer", "RouteRequest", "failure", "request_of", "response_of"]

_CONTENTS = {
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
    BYTES: "bytes_contents",
}
"""Fields of ``InferTensorContents`` by datatype."""

_OF_THE_WIRE = ("binary_data_size", "binary_data", "binary_data_output")
"""Parameters that say how tensors travel over HTTP."""

_STATUSES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.INVALID_ARGUMENT,
    424: StatusCode.FAILED_PRECONDITION,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class RouteRequest:
    """A request to one of the routes; its path is quoted."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = b""


@dataclass(frozen=True)
class RouteAnswer:
    """A response; names of headers are lower-case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes


def request_of(method: str, request: Any) -> RouteRequest:
    """Return the request for a call of a method.

    Raises:
        InputError: its tensors have contents of both forms, too few, or such as their datatype
            cannot hold.
    """
    match method:
        case "ServerLive":
            return RouteRequest("GET", "/v2/health/live")
        case "ServerReady":
            return RouteRequest("GET", "/v2/health/ready")
        case "ServerMetadata":
            return RouteRequest("GET", "/v2")
        case "ModelReady":
            return RouteRequest("GET", f"{_path(request.name, request.version)}/ready")
        case "ModelMetadata":
            return RouteRequest("GET", _path(request.name, request.version))
    return _inference(request)


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _inference(request: Any) -> RouteRequest:
    contents = _contents(request)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {**_parameters(tensor.parameters), "binary_data_size": len(data)},
        }
        for tensor, data in zip(request.inputs, contents, strict=True)
    ]
    document = {
        "id": request.id,
        "parameters": {**_parameters(request.parameters), "binary_data_output": True},
        "inputs": inputs,
        "outputs": [
            {"name": output.name, "parameters": _parameters(output.parameters)}
            for output in request.outputs
        ],
    }
    text = json_text(document)
    return RouteRequest(
        "POST",
        f"{_path(request.model_name, request.model_version)}/infer",
        {BINARY_HEADER: str(len(text)), "Content-Type": "application/octet-stream"},
        b"".join([text, *contents]),
    )


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {
        name: getattr(parameters[name], choice)
        for name, choice in chosen.items()
        if choice is not None and name not in _OF_THE_WIRE
    }


def _contents(request: Any) -> Iterable[bytes]:
    """The contents of all input tensors, raw."""
    raw = request.raw_input_contents
    if not raw:
        return [_raw(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise InputError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InputError(f"{tensor.name}: both contents and raw_input_contents")
    return list(raw)


def _raw(tensor: Any) -> bytes:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise InputError(
            f"{tensor.name}: {tensor.datatype!r} has no contents of its type; "
            "send raw_input_contents"
        )
    values = getattr(tensor.contents, name)
    if tensor.datatype == BYTES:
        return binary_elements(values)
    try:
        # A list: from protobuf's container, numpy would wrap values that are out of range.
        return np.array(list(values), DATATYPES[tensor.datatype]).tobytes()
    except OverflowError as error:
        raise InputError(f"{tensor.name}: {error}") from None


def response_of(method: str, answer: RouteAnswer) -> Any | None:
    """Return the response of a method; None if the answer is an error."""
    if method.endswith("Ready") and answer.status in (200, 503):
        return message(f"{method}Response")(ready=answer.status == 200)
    if answer.status != 200:
        return None
    if method == "ModelInfer":
        return _inferred(answer)
    document = json.loads(answer.body)
    for tensor in (*document.get("inputs", ()), *document.get("outputs", ())):
        tensor.pop("parameters", None)  # the messages have no place for them
    return message(f"{method}Response")(**document)


def _inferred(answer: RouteAnswer) -> Any:
    length = int(answer.headers[BINARY_HEADER.lower()])
    document = json.loads(answer.body[:length])
    raw, start = [], length
    for output in document["outputs"]:
        end = start + output.pop("parameters")["binary_data_size"]
        raw.append(answer.body[start:end])
        start = end
    return message("ModelInferResponse")(**document, raw_output_contents=raw)


def failure(answer: RouteAnswer) -> tuple[StatusCode, str]:
    """Return the status and the message of an error."""
    try:
        document = json.loads(answer.body)
        text = str(document.get("error") or document.get("detail"))
    except (ValueError, AttributeError):  # not from a route: an error page of HAProxy
        text = f"HTTP status {answer.status}"
    return _STATUSES.get(answer.status, StatusCode.UNKNOWN), text
