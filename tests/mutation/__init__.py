"""Mutation tests: plausible faults, put one at a time into a copy of the package, and the tests that notice them."""
