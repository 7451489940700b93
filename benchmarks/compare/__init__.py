"""This project beside `diffusers` on PyTorch: `python -m benchmarks.compare`."""
