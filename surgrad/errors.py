"""Errors that a user can mend: scripts print them as one line, without a traceback."""


class UserError(ValueError):
    """The message names the value, what is allowed and what to do."""
