"""Runs to and from folders of Hugging Face `diffusers`, without PyTorch."""
