"""Speed, measured side by side with code that one would write by hand and with other libraries."""
