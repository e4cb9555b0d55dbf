"""Engines, one module a technology, all behind `services.inference.engine.Engine`."""
