"""The equations: schedules, chains, objectives, samplers. They know no configuration and no network."""
