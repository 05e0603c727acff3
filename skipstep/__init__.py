"""What an inference acceleration really does to a diffusion policy: success, and measured latency.

`skipstep.accel` and `accel` are one module, and so are all others of the four packages: the short
names are those of a checkout, where they are also what the packages call each other.
"""

from __future__ import annotations

from .names import install

install()
