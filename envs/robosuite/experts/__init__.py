"""Scripted experts: they act on the last observations alone."""
