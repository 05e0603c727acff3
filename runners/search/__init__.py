"""runner=search: schedules tried on recorded queries."""
