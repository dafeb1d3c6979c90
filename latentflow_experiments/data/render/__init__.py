"""Synthetic stand-ins for published images, rendered from the same factors into the same files."""
