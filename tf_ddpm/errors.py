"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Wrong input. The message says what is wrong and what would be right, in at most three lines."""
