"""Finished runs side by side: arms, costs, pairs and what they show."""
