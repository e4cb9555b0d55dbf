"""Decides, beside Envoy, who may call what."""
