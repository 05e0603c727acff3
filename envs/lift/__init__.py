"""Lift of robosuite."""
