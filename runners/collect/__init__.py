"""runner=collect: demonstrations of a policy or of a scripted expert."""
