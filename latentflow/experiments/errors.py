"""Errors of the experiments that a user can act on."""

__all__ = ["DataError", "ExperimentError"]


class ExperimentError(Exception):
    """A problem the user can act on; the command line prints it in one line and exits with 1."""


class DataError(ExperimentError):
    """A data file is missing, damaged or not what it should be."""
