"""The metrics of a method."""
