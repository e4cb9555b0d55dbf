"""Reasons, codes and the documented enum are one thing."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from penstock.errors.v1 import error_reason_pb2

from services.chassis.errors import Failure, Reason, invalid_field
from services.chassis.status import CODES, code_of, to_status, trailers_of

PROTO = Path(__file__).parents[3] / "protos/penstock/errors/v1/error_reason.proto"


def documented_codes() -> dict[str, str]:
    """Reads `// CODE. ...` above each value of the enum."""
    found = re.findall(r"  // ([A-Z_]+)\. [^\n]*\n(?:  //[^\n]*\n)*  ERROR_REASON_([A-Z_]+) =", PROTO.read_text())
    return {reason: code for code, reason in found}


def test_reasons_are_those_of_the_proto() -> None:
    values = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert {reason.value for reason in Reason} == values - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_the_code_that_the_proto_documents(reason: Reason) -> None:
    assert CODES[reason].name == documented_codes()[reason.value]


def test_status_carries_reason_fields_delay_and_request() -> None:
    failure = invalid_field("top_k", "must be positive")
    failure.retry_after = 1.5
    status = to_status(failure, "r-1")
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    info, bad, retry, request = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.RequestInfo(),
    )
    for packed, detail in zip(status.details, (info, bad, retry, request), strict=True):
        assert packed.Unpack(detail)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_FIELD", "penstock", {"field": "top_k"})
    assert bad.field_violations[0].field == "top_k"
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert request.request_id == "r-1"


def test_trailers_hold_the_status_and_what_the_failure_adds() -> None:
    failure = Failure(Reason.ENGINE_OVERLOADED, "busy", retry_after=0.2, trailers={"x-openai-error": "{}"})
    trailers = dict(trailers_of(failure))
    rich = trailers["grpc-status-details-bin"]
    assert isinstance(rich, bytes)
    assert status_pb2.Status.FromString(rich).message == "busy"
    assert trailers["retry-after"] == "1"
    assert trailers["x-openai-error"] == "{}"
    assert code_of(failure) is grpc.StatusCode.RESOURCE_EXHAUSTED
