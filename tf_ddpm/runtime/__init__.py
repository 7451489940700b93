"""What the process runs on: devices, workers, signals, streams, files."""
