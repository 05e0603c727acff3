"""The transformer of a diffusion policy."""
