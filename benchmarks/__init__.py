"""Measurements: timings and quality of trained runs. Nothing here is imported by the package."""
