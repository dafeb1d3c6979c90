"""What is measured of a method."""
