from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from penstock.connection import repeatable

CONTRACT = Path(__file__).resolve().parents[3] / "services/gateway/api.binpb"


def test_all_that_the_contract_calls_idempotent_is_repeated() -> None:
    files = FileDescriptorSet.FromString(CONTRACT.read_bytes()).file
    methods = {
        (f"{file.package}.{service.name}", method.name)
        for file in files
        for service in file.service
        for method in service.method
        # Those who speak OpenAI's API have clients of their own.
        if service.name != "OpenAIService" and method.options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    }
    assert len(methods) > 20
    assert methods <= {(one["service"], one["method"]) for one in repeatable()}
