"""Stubs of the retrieval service, by version."""
