"""What all errors of this package that a user can mend have in common, and where one is left."""

FAILURE = "failure.txt"
"""Holds, in a run's directory, why it could not go on."""


class PfedhrError(Exception):
    """An error whose message is for the user: it names the value, the place and a remedy."""
