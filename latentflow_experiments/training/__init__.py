"""Training: the loop and its session."""
