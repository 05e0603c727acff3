"""runner=evaluate: episodes, latency, and what they show."""
