"""A terminal that records what is written to it."""

import io


class Terminal(io.StringIO):
    """A stream that reports that it is a terminal."""

    def isatty(self):
        return True
