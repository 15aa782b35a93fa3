"""Errors caused by the user's input, and text from the user in messages."""


class UserError(Exception):
    """A mistake in the user's input; its message is one line that names the mistake and says what to do."""


def printable(text: str) -> str:
    """Return a text with control characters and undecodable bytes escaped, so that a file name cannot forge messages.

    >>> printable("a\\nerror: b")
    'a\\\\nerror: b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
