"""Searches for better settings: what may be tried, how it is measured, who does it, and what becomes of the winner."""
