"""FID of this project and of `diffusers` on PyTorch after the same time: `python -m benchmarks.equal_time`."""
