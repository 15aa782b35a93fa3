"""What goes wrong on the user's side."""


class UserError(Exception):
    """One line that names the file, field or value and says what to do; shown without a traceback."""
