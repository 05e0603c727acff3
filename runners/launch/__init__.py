"""Sweeps: their words, their jobs, and the table at their end."""
