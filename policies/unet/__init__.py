"""The one-dimensional UNet of a diffusion policy: its sizes, its network, its record."""
