"""The one-dimensional UNet of a diffusion policy."""
