"""Reads files that may hold many documents: one stream of what was read, and of what was refused and why."""
