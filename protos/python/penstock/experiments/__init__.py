"""Stubs of the experiments service, by version."""
