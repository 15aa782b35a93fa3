"""Errors of the user's making, and text from the user in messages."""


class UserError(Exception):
    """A mistake in what the user gave; its message is one line that names it and says what to do."""


def printable(text: str) -> str:
    """Return a text with control characters and undecodable bytes escaped, so that a file name forges no message.

    >>> printable("a\\nerror: b")
    'a\\\\nerror: b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
