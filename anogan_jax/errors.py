"""The exception for mistakes on the user's side."""


class UserError(Exception):
    """A mistake on the user's side: one line that names the file, field or value and what to do, shown as it is."""
