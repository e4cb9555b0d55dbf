"""Keeps what is costly to make: in memory, and in a store that processes share."""
