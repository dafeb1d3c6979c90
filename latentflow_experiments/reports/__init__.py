"""Reports on runs and records: tables, strips of frames and comparisons."""
