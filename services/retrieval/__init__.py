"""Retrieval: documents in, grounded answers out."""
