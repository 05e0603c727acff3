"""A whole query as one graph that other runtimes load: observation and noise in, actions out."""

from __future__ import annotations

from .export import Exported, export_graph
from .formats import FORMATS, Format
from .noise import query_noise

__all__ = ["FORMATS", "Exported", "Format", "export_graph", "query_noise"]
