"""Finds answers that were given to the same question in other words. Off unless a threshold is set."""
