"""Envoy in front of the services: its configuration, and the pages that it serves."""
