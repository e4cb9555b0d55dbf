"""Stubs of penstock.retrieval.v1, generated from the protos."""
