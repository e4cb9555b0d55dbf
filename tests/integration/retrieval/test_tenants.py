"""Collections belong to tenants, and say who of them may do what."""

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import duration_pb2
from penstock.retrieval.v1 import (
    collection_pb2,
    collection_service_pb2,
    document_pb2,
    document_service_pb2,
    search_pb2,
    search_service_pb2,
)

from tests.support.retrieval import reason_of

if TYPE_CHECKING:
    from tests.support.retrieval import Retrieval

pytestmark = pytest.mark.asyncio(loop_scope="module")

OF = collection_service_pb2
ON = document_service_pb2


def caller(tenant: str, user: str = "", *groups: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a gateway sets."""
    told = {"x-penstock-tenant": tenant, "x-penstock-user": user, "x-penstock-groups": ",".join(groups)}
    return tuple((name, value) for name, value in told.items() if value)


class Door:
    """Calls as somebody."""

    def __init__(self, suite: "Retrieval", tenant: str, user: str = "", *groups: str) -> None:
        self.suite = suite
        self.metadata = caller(tenant, user, *groups)

    async def create(self, **fields: Any) -> collection_pb2.Collection:
        request_id = fields.pop("request_id", "")
        request = OF.CreateCollectionRequest(collection=collection_pb2.Collection(**fields), request_id=request_id)
        response = await self.suite.collections.CreateCollection(request, timeout=20, metadata=self.metadata)
        return response.collection  # type: ignore[no-any-return]  # stubs are Any here

    async def add(self, collection: str, text: str) -> None:
        documents = [document_pb2.DocumentInput(document="d", text=text)]
        request = ON.AddDocumentsRequest(collection=collection, documents=documents)
        await self.suite.documents.AddDocuments(request, timeout=30, metadata=self.metadata)

    async def search(self, collection: str, query: str, **fields: Any) -> list[str]:
        request = search_service_pb2.SearchRequest(collections=[collection], query=query, **fields)
        response = await self.suite.searches.Search(request, timeout=20, metadata=self.metadata)
        return [hit.text for hit in response.hits]

    async def update(self, **fields: Any) -> collection_pb2.Collection:
        request = OF.UpdateCollectionRequest(**fields)
        response = await self.suite.collections.UpdateCollection(request, timeout=20, metadata=self.metadata)
        return response.collection  # type: ignore[no-any-return]  # stubs are Any here

    async def listed(self) -> list[str]:
        response = await self.suite.collections.ListCollections(OF.ListCollectionsRequest(), timeout=20, metadata=self.metadata)
        return [one.collection for one in response.collections]

    async def refusals(self, collection: str) -> set[str]:
        """What every call that names a collection is refused with."""
        suite = self.suite
        calls: list[tuple[Any, Any]] = [
            (suite.collections.GetCollection, OF.GetCollectionRequest(collection=collection)),
            (suite.collections.GetCollectionStats, OF.GetCollectionStatsRequest(collection=collection)),
            (suite.collections.UpdateCollection, OF.UpdateCollectionRequest(collection=collection, description="mine")),
            (suite.collections.DeleteCollection, OF.DeleteCollectionRequest(collection=collection)),
            (
                suite.documents.AddDocuments,
                ON.AddDocumentsRequest(collection=collection, documents=[document_pb2.DocumentInput(text="t")]),
            ),
            (suite.documents.GetDocument, ON.GetDocumentRequest(collection=collection, document="d")),
            (suite.documents.DeleteDocument, ON.DeleteDocumentRequest(collection=collection, document="d")),
            (suite.searches.Search, search_service_pb2.SearchRequest(collections=[collection], query="q")),
        ]
        refusals = set()
        for method, request in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(request, timeout=20, metadata=self.metadata)
            refusals.add(f"{caught.value.code().name} {reason_of(caught.value)}")
        return refusals


async def test_two_tenants_have_collections_of_one_name(suite: "Retrieval") -> None:
    red, blue, nobody = (Door(suite, tenant) for tenant in ("red", "blue", ""))
    for door, text in ((red, "The red plan is to wait."), (blue, "The blue plan is to run.")):
        await door.create(collection="plans", request_id="same-key")
        await door.add("plans", text)
    assert await red.search("plans", "What is the plan?") == ["The red plan is to wait."]
    assert await blue.search("plans", "What is the plan?") == ["The blue plan is to run."]
    assert await nobody.refusals("plans") == {"NOT_FOUND COLLECTION_NOT_FOUND"}
    assert "plans" not in await nobody.listed()
    assert await red.listed() == ["plans"]
    await suite.collections.DeleteCollection(OF.DeleteCollectionRequest(collection="plans"), timeout=20, metadata=red.metadata)
    assert await red.listed() == []
    assert await blue.search("plans", "plan") == ["The blue plan is to run."]


async def test_an_access_list_narrows_a_tenant(suite: "Retrieval") -> None:
    anna = Door(suite, "acme", "anna")
    acl = collection_pb2.AccessList(readers=["group:sales"], writers=["user:boris"])
    made = await anna.create(collection="narrow", acl=acl)
    assert (made.owner, made.acl) == ("anna", acl)
    await anna.add("narrow", "The price is seven.")
    seller, boris = Door(suite, "acme", "carl", "sales", "all"), Door(suite, "acme", "boris")
    assert await seller.search("narrow", "price") == ["The price is seven."]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await seller.add("narrow", "The price is eight.")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    await boris.add("narrow", "The price is nine.")
    for outsider in (Door(suite, "acme", "dora"), Door(suite, "acme"), Door(suite, "other", "anna", "sales")):
        assert await outsider.refusals("narrow") == {"NOT_FOUND COLLECTION_NOT_FOUND"}
        assert "narrow" not in await outsider.listed()


async def test_a_list_may_not_lock_its_writer_out_and_holds_at_once(suite: "Retrieval") -> None:
    anna, group = Door(suite, "lock", "anna"), Door(suite, "lock", "eve", "staff")
    await anna.create(collection="open")
    await anna.add("open", "Anyone may read this.")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await group.update(collection="open", acl=collection_pb2.AccessList(writers=["user:zoe"]))
    assert reason_of(caught.value) == "INVALID_FIELD"
    assert await group.search("open", "read") == ["Anyone may read this."]
    revision = (await anna.update(collection="open", acl=collection_pb2.AccessList(writers=["user:anna"]))).revision
    assert await group.refusals("open") == {"NOT_FOUND COLLECTION_NOT_FOUND"}
    everyone = collection_pb2.AccessList(readers=["*"], writers=["*"])
    assert (await anna.update(collection="open", acl=everyone)).revision == revision + 1
    assert await group.search("open", "read") == ["Anyone may read this."]


async def test_settings_are_kept_and_a_search_may_differ(suite: "Retrieval") -> None:
    door = Door(suite, "settings")
    weighted = search_pb2.Fusion(weighted=search_pb2.WeightedFusion(dense=0.2, sparse=0.8))
    day = duration_pb2.Duration(seconds=86400)
    made = await door.create(collection="set", fusion=weighted, document_ttl=day)
    assert (made.fusion, made.document_ttl) == (weighted, day)
    await door.add("set", "A valve closes the pipe.")
    request = search_service_pb2.SearchRequest(collections=["set"], query="valve pipe", explain=True)
    hit = (await suite.searches.Search(request, timeout=20, metadata=door.metadata)).hits[0]
    assert hit.score == pytest.approx(0.2 * hit.explanation.dense.normalized_score + 0.8)
    request.fusion.rrf.k = 10
    assert (await suite.searches.Search(request, timeout=20, metadata=door.metadata)).hits[0].score == pytest.approx(0.2)
    changed = await door.update(collection="set", document_ttl=duration_pb2.Duration(), fusion=request.fusion)
    assert not changed.HasField("document_ttl")
    assert changed.fusion.rrf.k == 10
    assert changed.description == made.description
