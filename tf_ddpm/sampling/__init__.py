"""From a trained run to images."""
