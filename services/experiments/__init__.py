"""Experiments: which variant a unit gets, what came of it, and what that says."""
