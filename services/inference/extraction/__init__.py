"""Answering by extraction: sentences are taken out of texts, weighed against a question, and chosen. Free of engines."""
