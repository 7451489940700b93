"""A run on disk: its directory, configuration, labels and checkpoints."""
