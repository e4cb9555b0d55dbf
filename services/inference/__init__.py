"""Serves language models behind one contract, whatever engine runs them."""
