"""The errors a user may meet; the commands print them as one line, without a traceback."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a value, a disk. Exit status 1.

    The message is one line that names the file, key or value, says what was expected and what to do.
    """

    exit_status = 1


class UnknownLabel(UserError):
    """A mask has a label that the class list has not: more likely than not, the list is wrong, not this mask."""


class UsageError(UserError):
    """The command or the recipe was used wrongly. Exit status 2."""

    exit_status = 2
