"""What multiplies matrices: C compiled at first use, packed weights, torch."""
