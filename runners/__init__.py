"""Measuring: episodes, latency, metrics, what is written where."""
