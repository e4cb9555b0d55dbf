"""Readers of document formats: bytes in, text with its outline out."""
