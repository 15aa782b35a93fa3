"""The version, in one place; another when scores change, for what runs keep to score by is then made anew."""

__version__ = "0.2.0"
