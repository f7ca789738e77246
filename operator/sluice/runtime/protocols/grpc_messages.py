"""The messages of V2 over gRPC, by the field numbers of the Open Inference Protocol.

Called by ``grpc_port.py``; calls protobuf.  Only the fields that are read or written here are
declared: protobuf keeps apart what it does not know.  The classes are made from the table when this
module is loaded, in a pool of their own, so that no generated code is kept and another library's
copy of the protocol in the same process does not collide.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": (
        "string name = 1; repeated string versions = 2; string platform = 3; "
        "repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5"
    ),
    "TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "ModelInferRequest": (
        "string model_name = 1; string model_version = 2; string id = 3; "
        "repeated Tensor inputs = 5; repeated RequestedOutput outputs = 6; "
        "repeated bytes raw_input_contents = 7"
    ),
    "ModelInferResponse": (
        "string model_name = 1; string model_version = 2; string id = 3; "
        "repeated Tensor outputs = 5; repeated bytes raw_output_contents = 6"
    ),
    "Tensor": (
        "string name = 1; string datatype = 2; repeated int64 shape = 3; Contents contents = 5"
    ),
    "RequestedOutput": "string name = 1",
    "Contents": (
        "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
        "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; "
        "repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6; "
        "repeated double fp64_contents = 7; repeated bytes bytes_contents = 8"
    ),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="sluice/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split("; ")):
            _declare(message.field.add(), field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _FIELDS
    }


def _declare(field: Any, words: list[str]) -> None:
    """``[repeated] TYPE NAME = NUMBER``, as a .proto file has it."""
    kind, field.name, _, number = words[-4:]
    field.number = int(number)
    field.label = field.LABEL_REPEATED if words[0] == "repeated" else field.LABEL_OPTIONAL
    if kind in _FIELDS:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


MESSAGES = _classes()
