"""Optimal transport between pairs whose answer is known."""
