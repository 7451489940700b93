"""What the papers show as pictures, drawn from a run."""
