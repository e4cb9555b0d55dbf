"""Qdrant's gRPC API in front of the embedded engine `qdrant-edge-py`.

On one machine there is no Qdrant server to install, so this process plays its part: the retrieval
service talks to it with an unmodified `AsyncQdrantClient`, exactly as it talks to a cluster.
"""
