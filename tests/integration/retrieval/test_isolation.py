"""No RPC lets a tenant see or touch what is another's, whichever ids it names: over all RPCs that the descriptors tell of."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import grpc
import penstock.retrieval.v1
import pytest
from google.protobuf import json_format, message_factory

from tests.integration.retrieval.test_tenants import Door, caller

if TYPE_CHECKING:
    from tests.support.retrieval import Retrieval

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Those that name nothing of anybody's: they list what is the caller's own, or make it.
OWN = {"ListCollections", "CreateCollection"}
# What requests need besides ids, to get past validation.
NEEDED: dict[str, dict[str, Any]] = {
    "AddDocuments": {"documents": [{"document": "x", "text": "theirs"}]},
    "Answer": {"query": "q"},
    "StreamAnswer": {"query": "q"},
    "Search": {"query": "q"},
    "CreateIngestion": {"documents": {"documents": [{"document": "x", "text": "theirs"}]}},
    "UpdateCollection": {"description": "theirs"},
    "ExpireDocuments": {"older_than_days": 1},
}


def methods() -> dict[str, Any]:
    """Every RPC of retrieval, by its name."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(penstock.retrieval.v1.__path__, "penstock.retrieval.v1."):
        if module.name.endswith("_service_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                found |= {method.name: method for method in service.methods}
    return found


def asked(method: Any, ids: dict[str, Any]) -> Any:
    """A request that names another tenant's things wherever it can name any."""
    names = {field.name for field in method.input_type.fields}
    named = {name: value for name, value in ids.items() if name in names}
    more = {name: value for name, value in NEEDED.get(method.name, {}).items() if name in names}
    request = message_factory.GetMessageClass(method.input_type)()
    return json_format.ParseDict({**named, **more}, request)


async def answered(suite: "Retrieval", method: Any, request: Any, tenant: str) -> tuple[str, Any]:
    """The code that a call ends with, and its first response."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    read = message_factory.GetMessageClass(method.output_type).FromString
    kind = "_".join("stream" if one else "unary" for one in (method.client_streaming, method.server_streaming))
    call = getattr(suite.service.channel, kind)(
        path, request_serializer=type(request).SerializeToString, response_deserializer=read
    )
    sent = iter([request]) if method.client_streaming else request
    try:
        begun = call(sent, timeout=20, metadata=caller(tenant))
        if not method.server_streaming:
            return "OK", await begun
        async for response in begun:
            return "OK", response
    except grpc.aio.AioRpcError as error:
        return error.code().name, None
    return "OK", None


async def test_no_rpc_shows_or_touches_what_is_another_tenant_s(suite: "Retrieval") -> None:
    acme = Door(suite, "isolated")
    await acme.create(collection="vault")
    await acme.add("vault", "the secret recipe of acme")
    own = {"collection": "vault", **NEEDED["CreateIngestion"]}
    every = methods()
    request = asked(every["CreateIngestion"], own)
    _, made = await answered(suite, every["CreateIngestion"], request, "isolated")
    _, reindexing = await answered(suite, every["Reindex"], asked(every["Reindex"], {"collection": "vault"}), "isolated")
    ids = {
        "collection": "vault",
        "collections": ["vault"],
        "document": "d",
        "ingestion": made.ingestion.ingestion,
        # Conversations have names of the caller's choice; that of another tenant is another one.
        "conversation": "theirs",
        "reindexing": reindexing.reindexing.reindexing,
    }
    found = {}
    for name, method in every.items():
        if name not in OWN:
            found[name] = (await answered(suite, method, asked(method, ids), "intruder"))[0]
    assert found == dict.fromkeys(found, "NOT_FOUND")
    assert await Door(suite, "intruder").listed() == []
    assert await acme.listed() == ["vault"]
