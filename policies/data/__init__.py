"""Demonstrations: files of robomimic and of LeRobot, their order, and the normaliser."""
