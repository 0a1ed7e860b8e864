"""Messages and methods of ``inference.GRPCInferenceService``, without generated code.

A message is a table of its fields, ``name: (number, type)``, from which protobuf builds a class
when it is first asked for. Types are those of proto3; ``*`` is for repeated fields, ``%`` for maps
from texts, and capitalised names are messages. The pool is of its own: clients register messages
of the same names in the default one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["MESSAGES", "METHODS", "PACKAGE", "SERVICE", "message"]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
)
"""All unary; the messages of each are named after it, with ``Request`` and ``Response``."""

Fields: TypeAlias = Mapping[str, tuple[int, str]]

_MODEL: Fields = {"name": (1, "string"), "version": (2, "string")}

MESSAGES: Mapping[str, Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _MODEL,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, "*string"),
    },
    "ModelMetadataRequest": _MODEL,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "*string"),
        "platform": (3, "string"),
        "inputs": (4, "*ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "*ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "*int64"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "%InferParameter"),
        "inputs": (5, "*ModelInferRequest.InferInputTensor"),
        "outputs": (6, "*ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "*bytes"),
    },
    "ModelInferRequest.InferInputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "*int64"),
        "parameters": (4, "%InferParameter"),
        "contents": (5, "InferTensorContents"),
    },
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, "%InferParameter"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "%InferParameter"),
        "outputs": (5, "*ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "*bytes"),
    },
    "ModelInferResponse.InferOutputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "*int64"),
        "parameters": (4, "%InferParameter"),
        "contents": (5, "InferTensorContents"),
    },
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "*bool"),
        "int_contents": (2, "*int32"),
        "int64_contents": (3, "*int64"),
        "uint_contents": (4, "*uint32"),
        "uint64_contents": (5, "*uint64"),
        "fp32_contents": (6, "*float"),
        "fp64_contents": (7, "*double"),
        "bytes_contents": (8, "*bytes"),
    },
}
"""The fields of each message; of a message within another, by both names."""

_ONE_OF = {"InferParameter": "parameter_choice"}
"""Messages that have one of their fields."""


@cache
def message(name: str) -> Any:
    """Return the class of a message of `MESSAGES`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3"
    )
    descriptors: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        siblings = descriptors[outer].nested_type if outer else file.message_type
        descriptor = descriptors[name] = siblings.add()
        descriptor.name = inner
        if name in _ONE_OF:
            descriptor.oneof_decl.add().name = _ONE_OF[name]
        for field, (number, kind) in fields.items():
            added = _add(descriptor, f".{PACKAGE}.{name}", field, number, kind)
            if name in _ONE_OF:
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add(described: Any, path: str, name: str, number: int, kind: str) -> Any:
    """Add a field to the message description at a path."""
    if kind.startswith("%"):  # a map is a repeated message of keys and values
        entry = described.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, path, "key", 1, "string")
        _add(entry, path, "value", 2, kind[1:])
        field = described.field.add(type_name=f"{path}.{entry.name}", type=_TYPES.TYPE_MESSAGE)
    elif kind.strip("*")[0].isupper():
        type_name = f".{PACKAGE}.{kind.strip('*')}"
        field = described.field.add(type_name=type_name, type=_TYPES.TYPE_MESSAGE)
    else:
        field = described.field.add(type=_TYPES.Type.Value(f"TYPE_{kind.strip('*').upper()}"))
    many = kind[0] in "*%"
    field.name, field.number = name, number
    field.label = _TYPES.LABEL_REPEATED if many else _TYPES.LABEL_OPTIONAL
    return field


_TYPES = descriptor_pb2.FieldDescriptorProto
