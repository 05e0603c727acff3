"""The transformer of a diffusion policy: its sizes, its network, its record."""
