"""Stubs of penstock.experiments.v1, generated from the protos."""
