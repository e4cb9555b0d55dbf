"""One corpus of cases over gRPC and over REST, in order: each is answered alike, and refused for the reason that it names.

A case is a method, a request in the JSON of protobuf, and the reason why it is refused, if it is. `FACE` in it becomes the name
of the face, so that both make what they ask for. Ids, times and durations are left out of the comparison, all else is in it.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penstock
import pytest
from google.protobuf import json_format, message_factory

from tests.e2e import faces
from tests.e2e.faces import Grpc, Refused, Rest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import MethodDescriptor

    from tests.e2e.faces import Face
    from tests.support.suite import Suite

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "corpus/cases.json").read_text(encoding="utf-8"))
# What differs between any two calls.
VOLATILE = {"request_id", "timings", "create_time", "update_time", "expire_time", "index_time", "loaded_time", "last_used_time"}
# What the first call leaves behind for the second: the cache; a chunk's id is made of its collection's, a salt is drawn.
VOLATILE |= {"attempts", "cached", "chunk", "salt"}


@pytest.fixture(scope="module")
def methods() -> Iterator[None]:
    """Lets the faces call every method of the contract."""
    before = dict(faces.METHODS)
    for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if module.name.endswith("_service_pb2"):
            services = importlib.import_module(module.name).DESCRIPTOR.services_by_name
            faces.METHODS.update({method.name: method for service in services.values() for method in service.methods})
    yield
    faces.METHODS.clear()
    faces.METHODS.update(before)


def outcome(face: Face, case: dict[str, Any], run: str) -> Any:
    """What the face gives for a case: the answer or the events without what is volatile, or the refusal."""
    descriptor: MethodDescriptor = faces.METHODS[case["method"]]
    name = f"{face.name}-{run}"
    text = json.dumps(case["request"]).replace("FACE", name)
    request = json_format.Parse(text, message_factory.GetMessageClass(descriptor.input_type)())
    try:
        if descriptor.server_streaming:
            found: Any = joined(steady(json_format.MessageToDict(one)) for one in face.stream(case["method"], request))
        else:
            found = steady(json_format.MessageToDict(face.call(case["method"], request)))
            # Vectors that the first call left behind are not counted in tokens again, but estimated.
            if case["method"] == "Embed":
                del found["usage"]
    except Refused as refused:
        found = (refused.code, refused.reason, refused.message, refused.fields, bool(refused.request_id))
    return json.loads(json.dumps(found).replace(name, "FACE"))


def joined(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts that come one after the other as one: how much of them comes together is a matter of time."""
    found: list[dict[str, Any]] = []
    for event in events:
        kind = next(iter(event), "")
        if kind in {"token", "delta"} and found and kind in found[-1]:
            found[-1][kind]["text"] += event[kind].get("text", "")
        else:
            found.append(event)
    return found


def steady(value: Any) -> Any:
    """Leaves out what is volatile."""
    if isinstance(value, dict):
        return {name: steady(one) for name, one in value.items() if snake(name) not in VOLATILE}
    return [steady(one) for one in value] if isinstance(value, list) else value


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@pytest.mark.usefixtures("methods")
def test_both_faces_give_the_same(suite: Suite) -> None:
    grpc, rest = Grpc(suite.grpc), Rest(suite.url)
    differing, run = [], uuid.uuid4().hex[:8]
    try:
        for case in CASES:
            over_grpc, over_rest = outcome(grpc, case, run), outcome(rest, case, run)
            reason = over_grpc[1] if isinstance(over_grpc, list) and len(over_grpc) == 5 and over_grpc[-1] is True else None
            if over_grpc != over_rest or reason != case.get("refused"):
                differing.append(f"{case['name']}:\n  grpc {over_grpc}\n  rest {over_rest}")
    finally:
        grpc.close()
        rest.close()
    assert not differing, "\n".join(differing)
