"""The networks. They do not know what diffusion is."""
