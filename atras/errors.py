"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Input that atras cannot use.

    The message is one line that names what was expected, what came and what to do. The command line prints it and
    exits with status 2; it never becomes a traceback there.
    """
