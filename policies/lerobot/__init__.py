"""Policy folders of LeRobot, read as data and written."""
