"""A plan: which cells of the grid of steps and sites are computed, and what the others add."""
