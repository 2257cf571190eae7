"""What all errors of this package that a user can mend have in common."""


class PfedhrError(Exception):
    """An error whose message is for the user: it names the value, the place and a remedy."""
