"""A sampler is rows of numbers: its timesteps, and what each step makes of the output."""
