"""Qdrant's `Collections` service."""

# The methods are documented in Qdrant's protos, and have the arguments that gRPC gives them.
# ruff: noqa: D102, ARG002

import time
from typing import Any

import grpc.aio

from deploy.local.qdrant_edge.refusals import not_served
from deploy.local.qdrant_edge.schema import (
    FULL_SCAN_THRESHOLD_KB,
    HNSW_EF_CONSTRUCT,
    HNSW_M,
    indexing_threshold_kb,
    payload_schema,
)
from deploy.local.qdrant_edge.store import Store
from deploy.local.qdrant_edge.stubs import collections_pb2 as pb2
from deploy.local.qdrant_edge.stubs import collections_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
# What UpdateCollection may carry here; all else would need the engine to change its files.
_UPDATABLE = frozenset({"collection_name", "timeout", "metadata"})


class CollectionsServicer(collections_service_pb2_grpc.CollectionsServicer):
    """Creates, describes and deletes collections and aliases; all else is UNIMPLEMENTED."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def Create(self, request: pb2.CreateCollection, context: Context) -> pb2.CollectionOperationResponse:
        started = time.monotonic()
        self._store.create(request)
        return pb2.CollectionOperationResponse(result=True, time=time.monotonic() - started)

    async def Update(self, request: pb2.UpdateCollection, context: Context) -> pb2.CollectionOperationResponse:
        started = time.monotonic()
        for field, _ in request.ListFields():
            if field.name not in _UPDATABLE:
                raise not_served(f"a change of {field.name}")
        self._store.update_metadata(request.collection_name, request)
        return pb2.CollectionOperationResponse(result=True, time=time.monotonic() - started)

    async def Delete(self, request: pb2.DeleteCollection, context: Context) -> pb2.CollectionOperationResponse:
        started = time.monotonic()
        is_deleted = await self._store.delete(request.collection_name)
        return pb2.CollectionOperationResponse(result=is_deleted, time=time.monotonic() - started)

    async def Get(self, request: pb2.GetCollectionInfoRequest, context: Context) -> pb2.GetCollectionInfoResponse:
        started = time.monotonic()
        collection = self._store.collection(request.collection_name)
        info = collection.shard.call(lambda engine: engine.info())
        described = pb2.CollectionInfo(
            status=pb2.Green,
            optimizer_status=pb2.OptimizerStatus(ok=True),
            segments_count=info.segments_count,
            config=_described(collection.record.config),
            payload_schema=payload_schema(info),
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
        )
        described.created_at.FromMilliseconds(int(collection.record.created * 1000))
        return pb2.GetCollectionInfoResponse(result=described, time=time.monotonic() - started)

    async def List(self, request: pb2.ListCollectionsRequest, context: Context) -> pb2.ListCollectionsResponse:
        return pb2.ListCollectionsResponse(
            collections=[pb2.CollectionDescription(name=name) for name in self._store.contents.collections]
        )

    async def CollectionExists(self, request: pb2.CollectionExistsRequest, context: Context) -> pb2.CollectionExistsResponse:
        exists = self._store.exists(request.collection_name)
        return pb2.CollectionExistsResponse(result=pb2.CollectionExists(exists=exists))

    async def UpdateAliases(self, request: pb2.ChangeAliases, context: Context) -> pb2.CollectionOperationResponse:
        started = time.monotonic()
        self._store.change_aliases(request.actions)
        return pb2.CollectionOperationResponse(result=True, time=time.monotonic() - started)

    async def ListAliases(self, request: pb2.ListAliasesRequest, context: Context) -> pb2.ListAliasesResponse:
        return _aliases(self._store.contents.aliases)

    async def ListCollectionAliases(
        self, request: pb2.ListCollectionAliasesRequest, context: Context
    ) -> pb2.ListAliasesResponse:
        record = self._store.collection(request.collection_name).record
        contents = self._store.contents
        return _aliases({alias: target for alias, target in contents.aliases.items() if contents.collections[target] is record})


def _aliases(aliases: dict[str, str]) -> pb2.ListAliasesResponse:
    return pb2.ListAliasesResponse(
        aliases=[pb2.AliasDescription(alias_name=alias, collection_name=target) for alias, target in aliases.items()]
    )


def _described(config: pb2.CreateCollection) -> pb2.CollectionConfig:
    """The configuration as a server would describe it, its defaults filled in."""
    described = pb2.CollectionConfig(
        params=pb2.CollectionParams(
            shard_number=1,
            replication_factor=1,
            write_consistency_factor=1,
            on_disk_payload=config.on_disk_payload or not config.HasField("on_disk_payload"),
        ),
        hnsw_config=pb2.HnswConfigDiff(
            m=HNSW_M,
            ef_construct=HNSW_EF_CONSTRUCT,
            full_scan_threshold=FULL_SCAN_THRESHOLD_KB,
        ),
        optimizer_config=pb2.OptimizersConfigDiff(
            deleted_threshold=0.2,
            vacuum_min_vector_number=1000,
            default_segment_number=1,
            flush_interval_sec=5,
        ),
        wal_config=pb2.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0, wal_retain_closed=1),
        metadata=config.metadata,
    )
    described.hnsw_config.MergeFrom(config.hnsw_config)
    described.optimizer_config.MergeFrom(config.optimizers_config)
    described.optimizer_config.indexing_threshold = indexing_threshold_kb(config)
    if config.HasField("vectors_config"):
        described.params.vectors_config.CopyFrom(config.vectors_config)
    if config.HasField("sparse_vectors_config"):
        described.params.sparse_vectors_config.CopyFrom(config.sparse_vectors_config)
    if config.HasField("quantization_config"):
        described.quantization_config.CopyFrom(config.quantization_config)
    return described
