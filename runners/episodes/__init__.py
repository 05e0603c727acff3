"""One policy in many worlds at once: the loop, its clock, its noise, and how long a query takes."""
