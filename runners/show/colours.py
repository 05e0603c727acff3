"""Colours that stay apart for colour-blind readers and in grey (Okabe and Ito; ColorBrewer)."""

from __future__ import annotations

CELL_COLOURS = (
    "#1f3b5c",  # computed
    "#ffffff",  # adds nothing
    "#c9d6e4",  # reused
    "#fee08b",  # forecasts, darker with more stored values
    "#fdae61",
    "#e6701e",
    "#a63603",
    "#f1f1f1",  # not reached
)
DIFFERENCE_COLOURS = ("#8a929b", "#e3e6ea", "#0072b2", "#d55e00", "#f7efa6")
KIND_COLOURS = {"sa": "#0072b2", "ca": "#56b4e9", "ff": "#e69f00"}
KIND_COLOURS |= {"deep": "#0072b2", "rest": "#999999"}
ARM_COLOURS = ("#0072b2", "#d55e00")
SEPARATOR = "#707880"
MATRIX = (  # cividis
    *("#00224e", "#123570", "#3b496c", "#575d6d", "#707173"),
    *("#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"),
)
