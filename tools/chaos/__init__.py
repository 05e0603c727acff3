"""Seeded campaigns of damage: hostile files, killed processes, full disks, bad clients.

    python -m tools.chaos files --seeds 0:1000

Each seed is one trial, and gives the same trial again. What came of them is kept in results/chaos/,
and the tables of several ranges of seeds add up.
"""
