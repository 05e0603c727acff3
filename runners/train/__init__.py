"""runner=train: a policy from demonstrations."""
