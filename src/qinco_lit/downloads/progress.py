"""What a download tells about itself while it runs; who shows it decides how."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives calls from several threads. `name` is the file's name below its folder."""

    def begin(self, name: str, phase: str, done: int, total: int | None) -> None:
        """Say that a file enters a phase (downloading, checking, unpacking) of so many bytes, some of them done."""

    def advance(self, name: str, num_bytes: int) -> None:
        """Count bytes of the phase; negative when work was lost."""

    def end(self, name: str) -> None:
        """Say that nothing more happens to a file."""

    def note(self, text: str) -> None:
        """Tell the user one line."""
