"""Checkpoints and live policies of the reference implementation, read as data."""
