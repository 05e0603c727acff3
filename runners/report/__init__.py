"""python -m runners.report multirun/<study>: tables and one HTML page."""
