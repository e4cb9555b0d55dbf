"""Stubs of penstock.inference.v1, generated from the protos."""
