"""Campaigns of damaged files, bad inputs, signals and broken environments, with a count of what became of each."""
