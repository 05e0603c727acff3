"""runner=calibrate: what a policy's branches do, on its own queries."""
