"""Stubs of the inference service, by version."""
