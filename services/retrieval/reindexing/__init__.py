"""A new index for a collection, built beside the old one and put in its place."""
