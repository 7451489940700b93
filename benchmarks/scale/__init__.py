"""What grows with the number and the size of pictures: `python -m benchmarks.scale`, and `.sources`, `.curves`."""
