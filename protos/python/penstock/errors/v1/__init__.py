"""Stubs of penstock.errors.v1, generated from the protos."""
