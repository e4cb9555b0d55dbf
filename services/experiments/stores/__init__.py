"""Stores, each named after its technology, all held to one contract suite."""
