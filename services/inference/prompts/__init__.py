"""Prompts that are kept under a name, with versions that never change, and rendered with variables."""
