"""From images to what is diffused, and back."""
