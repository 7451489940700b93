"""What grows with the number and size of pictures: `python -m benchmarks.scale`, `.sources`, `.table`, `.curves`."""
