"""Everything that turns a finished run into something TF Serving serves."""
