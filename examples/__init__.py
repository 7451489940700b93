"""Small programs that use the package's equations without its images."""
