"""What a user can put right: told in one sentence, without a traceback."""


class Problem(Exception):
    """Bad input, or a machine that cannot go on; the message is the sentence."""
