"""Errors of the experiments that a user can act on."""

__all__ = ["DataError", "ExperimentError", "UsageError"]


class ExperimentError(Exception):
    """A problem the user can act on; the command line prints it in one line and exits with 1."""


class UsageError(ExperimentError):
    """An argument is out of range or does not go with another one; the command line exits with 2."""


class DataError(ExperimentError):
    """A data file is missing, damaged or not what it should be."""
