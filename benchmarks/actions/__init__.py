"""What benchmarks/action_error.py consists of."""
