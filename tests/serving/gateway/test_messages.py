"""Messages of the protocol: what protobuf makes of the tables, and what others have published."""

import importlib

import pytest

from mlkit.serving.gateway.messages import MESSAGES, METHODS, SERVICE, message


def published():
    """The descriptors of a client that has generated code of the protocol, if one is installed."""
    for module in ("tritonclient.grpc.service_pb2", "kserve.protocol.grpc.grpc_predict_v2_pb2"):
        try:
            return importlib.import_module(module).DESCRIPTOR
        except (ImportError, TypeError):  # two of them do not fit into one process
            continue
    return pytest.skip("no client of the protocol is installed")


def found(file, name):
    outer, _, inner = name.partition(".")
    descriptor = file.message_types_by_name[outer]
    return descriptor.nested_types_by_name[inner] if inner else descriptor


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_those_of_generated_code(name) -> None:
    ours = message(name).DESCRIPTOR
    theirs = {field.number: field for field in found(published(), name).fields}
    assert len(theirs) >= len(ours.fields) or name == "InferParameter"
    for field in ours.fields:
        if field.number not in theirs:  # a client of an older version of the protocol
            assert field.name in ("double_param", "uint64_param")
            continue
        other = theirs[field.number]
        assert (field.name, field.type) == (other.name, other.type)
        assert field.is_repeated == other.is_repeated
        assert (field.containing_oneof is None) == (other.containing_oneof is None)
        if field.message_type:
            assert field.message_type.full_name == other.message_type.full_name
            assert (
                field.message_type.GetOptions().map_entry
                == other.message_type.GetOptions().map_entry
            )


def test_methods_are_those_of_generated_code() -> None:
    service = published().services_by_name[SERVICE.rpartition(".")[2]]
    for name in METHODS:
        method = service.methods_by_name[name]
        assert method.input_type.full_name == f"inference.{name}Request"
        assert method.output_type.full_name == f"inference.{name}Response"


def test_a_message_survives_the_wire() -> None:
    kind = message("ModelInferRequest")
    request = kind(model_name="tag", id="42", raw_input_contents=[b"\0\1", b""])
    request.parameters["priority"].int64_param = 3
    request.inputs.add(name="x", datatype="FP32", shape=[2, -1]).contents.fp32_contents.append(0.5)
    assert kind.FromString(request.SerializeToString()) == request


def test_a_parameter_has_one_value() -> None:
    parameter = message("InferParameter")(bool_param=True)
    parameter.string_param = "b"
    assert parameter.WhichOneof("parameter_choice") == "string_param"
    assert not parameter.bool_param
