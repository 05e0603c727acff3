"""Caches on a model of another library, block by block."""
