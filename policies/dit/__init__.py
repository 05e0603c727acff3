"""The DiT of LeRobot's multi_task_dit: its sizes, its network, its record."""
