"""What a collection is made of: its configuration, from Qdrant's messages to the engine."""

from typing import Any

import qdrant_edge as edge

from deploy.local.qdrant_edge.refusals import not_served, wrong_input
from deploy.local.qdrant_edge.stubs import collections_pb2, points_pb2

# Qdrant's own defaults; sizes are in KB of vector data.
HNSW_M = 16
HNSW_EF_CONSTRUCT = 100
FULL_SCAN_THRESHOLD_KB = 10_000
INDEXING_THRESHOLD_KB = 10_000
MAX_VECTOR_SIZE = 65_536

_DISTANCES = {
    collections_pb2.Cosine: edge.Distance.Cosine,
    collections_pb2.Euclid: edge.Distance.Euclid,
    collections_pb2.Dot: edge.Distance.Dot,
    collections_pb2.Manhattan: edge.Distance.Manhattan,
}
_DATATYPES = {
    collections_pb2.Float32: edge.VectorStorageDatatype.Float32,
    collections_pb2.Float16: edge.VectorStorageDatatype.Float16,
    collections_pb2.Uint8: edge.VectorStorageDatatype.Uint8,
}
_FIELD_TYPES = {
    points_pb2.FieldTypeKeyword: edge.PayloadSchemaType.Keyword,
    points_pb2.FieldTypeInteger: edge.PayloadSchemaType.Integer,
    points_pb2.FieldTypeFloat: edge.PayloadSchemaType.Float,
    points_pb2.FieldTypeGeo: edge.PayloadSchemaType.Geo,
    points_pb2.FieldTypeText: edge.PayloadSchemaType.Text,
    points_pb2.FieldTypeBool: edge.PayloadSchemaType.Bool,
    points_pb2.FieldTypeDatetime: edge.PayloadSchemaType.Datetime,
    points_pb2.FieldTypeUuid: edge.PayloadSchemaType.Uuid,
}
_SCHEMA_TYPES = {
    edge.PayloadSchemaType.Keyword: collections_pb2.Keyword,
    edge.PayloadSchemaType.Integer: collections_pb2.Integer,
    edge.PayloadSchemaType.Float: collections_pb2.Float,
    edge.PayloadSchemaType.Geo: collections_pb2.Geo,
    edge.PayloadSchemaType.Text: collections_pb2.Text,
    edge.PayloadSchemaType.Bool: collections_pb2.Bool,
    edge.PayloadSchemaType.Datetime: collections_pb2.Datetime,
    edge.PayloadSchemaType.Uuid: collections_pb2.Uuid,
}
_INDEX_PARAMS = {
    "keyword_index_params": edge.KeywordIndexParams,
    "integer_index_params": edge.IntegerIndexParams,
    "float_index_params": edge.FloatIndexParams,
    "geo_index_params": edge.GeoIndexParams,
    "bool_index_params": edge.BoolIndexParams,
    "datetime_index_params": edge.DatetimeIndexParams,
    "uuid_index_params": edge.UuidIndexParams,
    "text_index_params": edge.TextIndexParams,
}
_TOKENIZERS = {
    collections_pb2.Prefix: edge.TokenizerType.Prefix,
    collections_pb2.Whitespace: edge.TokenizerType.Whitespace,
    collections_pb2.Word: edge.TokenizerType.Word,
    collections_pb2.Multilingual: edge.TokenizerType.Multilingual,
}

IndexParams = (
    edge.KeywordIndexParams
    | edge.IntegerIndexParams
    | edge.FloatIndexParams
    | edge.GeoIndexParams
    | edge.BoolIndexParams
    | edge.DatetimeIndexParams
    | edge.UuidIndexParams
    | edge.TextIndexParams
)


def dense_vectors(
    config: collections_pb2.CreateCollection,
) -> dict[str, collections_pb2.VectorParams]:
    """The dense vectors by name; the unnamed one has an empty name."""
    if config.vectors_config.WhichOneof("config") == "params":
        return {"": config.vectors_config.params}
    return dict(config.vectors_config.params_map.map)


def sparse_vectors(
    config: collections_pb2.CreateCollection,
) -> dict[str, collections_pb2.SparseVectorParams]:
    """The sparse vectors by name."""
    return dict(config.sparse_vectors_config.map)


def engine_config(config: collections_pb2.CreateCollection) -> edge.EdgeConfig:
    """Raises Refusal when no vector is declared or one is declared wrongly."""
    dense = dense_vectors(config)
    sparse = sparse_vectors(config)
    if not dense and not sparse:
        raise wrong_input("a collection needs at least one dense or sparse vector")
    on_disk_payload = config.on_disk_payload if config.HasField("on_disk_payload") else None
    return edge.EdgeConfig(
        vectors={name: _dense(name, params) for name, params in dense.items()},
        sparse_vectors={name: _sparse(params) for name, params in sparse.items()},
        on_disk_payload=on_disk_payload,
        hnsw_config=_hnsw(config.hnsw_config),
        quantization_config=_quantization(config.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(
            # One segment answers fastest, and only the rebuild process merges segments.
            default_segment_number=1,
            indexing_threshold=indexing_threshold_kb(config),
        ),
        # The engine holds the GIL while it searches: a pool of its own would only cost memory.
        max_search_threads=1,
    )


def indexing_threshold_kb(config: collections_pb2.CreateCollection) -> int:
    """From how many KB of vectors a collection is worth an HNSW index."""
    if config.optimizers_config.HasField("indexing_threshold"):
        return config.optimizers_config.indexing_threshold
    return INDEXING_THRESHOLD_KB


def _dense(name: str, params: collections_pb2.VectorParams) -> edge.EdgeVectorParams:
    if not 1 <= params.size <= MAX_VECTOR_SIZE:
        raise wrong_input(f"vector `{name}` has size {params.size}: it must be 1 to {MAX_VECTOR_SIZE}")
    if params.distance not in _DISTANCES:
        raise wrong_input(f"vector `{name}` declares no distance")
    if params.HasField("multivector_config"):
        raise not_served("a multi-vector")
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_DISTANCES[params.distance],
        on_disk=params.on_disk if params.HasField("on_disk") else None,
        datatype=_DATATYPES.get(params.datatype),
        quantization_config=_quantization(params.quantization_config),
        hnsw_config=_hnsw(params.hnsw_config) if params.HasField("hnsw_config") else None,
    )


def _sparse(params: collections_pb2.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=(index.full_scan_threshold if index.HasField("full_scan_threshold") else None),
        on_disk=index.on_disk if index.HasField("on_disk") else None,
        modifier=edge.Modifier.Idf if params.modifier == collections_pb2.Idf else None,
        datatype=_DATATYPES.get(index.datatype),
    )


def _hnsw(diff: collections_pb2.HnswConfigDiff) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(
        m=diff.m if diff.HasField("m") else HNSW_M,
        ef_construct=diff.ef_construct if diff.HasField("ef_construct") else HNSW_EF_CONSTRUCT,
        full_scan_threshold=(diff.full_scan_threshold if diff.HasField("full_scan_threshold") else FULL_SCAN_THRESHOLD_KB),
        max_indexing_threads=diff.max_indexing_threads,
        on_disk=diff.on_disk if diff.HasField("on_disk") else None,
        payload_m=diff.payload_m if diff.HasField("payload_m") else None,
    )


def _quantization(
    config: collections_pb2.QuantizationConfig,
) -> edge.ScalarQuantizationConfig | None:
    match config.WhichOneof("quantization"):
        case None:
            return None
        case "scalar":
            scalar = config.scalar
            return edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8,
                quantile=scalar.quantile if scalar.HasField("quantile") else None,
                always_ram=scalar.always_ram if scalar.HasField("always_ram") else None,
            )
        case kind:
            raise not_served(f"{kind} quantization")


def index_schema(
    request: points_pb2.CreateFieldIndexCollection,
) -> edge.PayloadSchemaType | IndexParams:
    """The payload index that a client asks for, by its type or by its parameters."""
    kind = request.field_index_params.WhichOneof("index_params")
    if kind is None:
        if not request.HasField("field_type"):
            raise wrong_input(f"payload index of `{request.field_name}` declares no type")
        return _FIELD_TYPES[request.field_type]
    given: dict[str, object] = {
        field.name: value
        for field, value in getattr(request.field_index_params, kind).ListFields()
        if field.name not in ("memory", "prefix")
    }
    if kind == "text_index_params":
        given = _text_options(given)
    try:
        params: IndexParams = _INDEX_PARAMS[kind](**given)
    except (TypeError, ValueError) as error:
        raise wrong_input(f"payload index of `{request.field_name}`: {error}") from error
    return params


def _text_options(given: dict[str, object]) -> dict[str, object]:
    for option in ("stopwords", "stemmer", "scoring"):
        if option in given:
            raise not_served(f"the option {option} of a text index")
    tokenizer: Any = given.pop("tokenizer", collections_pb2.Word)
    return given | {"tokenizer": _TOKENIZERS.get(tokenizer, edge.TokenizerType.Word)}


def payload_schema(info: "edge.ShardInfo") -> dict[str, collections_pb2.PayloadSchemaInfo]:
    """The payload indexes by field, with the number of points in each."""
    return {
        name: collections_pb2.PayloadSchemaInfo(data_type=_SCHEMA_TYPES[index.data_type], points=index.points)
        for name, index in info.payload_schema.items()
    }
