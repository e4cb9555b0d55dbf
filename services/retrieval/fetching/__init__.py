"""Fetches documents from the web, from where that is allowed and nowhere else."""
