"""The Franka kitchen of D4RL."""
