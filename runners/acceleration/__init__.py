"""What a policy is accelerated with: its calibration, its quantised layers, the play."""
