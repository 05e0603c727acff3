"""What is measured of a policy on its own queries, once, for the methods that choose by it."""
