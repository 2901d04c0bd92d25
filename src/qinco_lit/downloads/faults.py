"""What can go wrong with a server, by what helps. What does not get better by itself is a ValueError."""


class TemporaryError(Exception):
    """Trying again may help: a dropped connection, a short answer, an overloaded server.

    Attributes:
        retry_after_s: what the server asks to wait, 0 if it does not say.
    """

    def __init__(self, what: str, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class RemoteChangedError(Exception):
    """The file on the server is no longer the one of which a part is here."""


class Interrupted(Exception):  # noqa: N818 (no error: the user stopped it)
    """The user, or another part of the same file, stopped the work."""
