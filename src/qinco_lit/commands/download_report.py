"""What can be downloaded, and what a download would do, on the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from qinco_lit.downloads import CHECKPOINTS, RemoteFile
from qinco_lit.downloads.part import num_done
from qinco_lit.downloads.remote_file import readable

if TYPE_CHECKING:
    from qinco_lit.commands.download import PublishedSet

_CONSOLE_WIDTH = 100  # of a table that goes to a file or a pipe


def print_table(sets: "Mapping[str, PublishedSet]") -> None:
    """Print every name with what it is and its size; `+` stands for files of unknown size."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_CONSOLE_WIDTH)
    table = Table("qinco download …", "what", "on disk", box=None, pad_edge=False)
    for name, found in sets.items():
        for small in (True, False):
            files = found.files(small=small)
            train, database = files[0], files[1]
            if small or files != found.files(small=True):
                what = f"{_rows(database.num_rows)} database vectors, {_rows(train.num_rows)} to train on"
                sizes = [file.size_bytes for file in files]
                table.add_row(f"{name}{' --small' if small else ''}", f"{what}, dim {database.dim}", _total(sizes))
    for name, checkpoint in CHECKPOINTS.items():
        table.add_row(name, checkpoint.description, _total([checkpoint.size_bytes]))
    console.print(table)


def print_files(files: Sequence[RemoteFile], free: int) -> None:
    """Print every file with its url, its size where it is known, and what of it is there; then the sum."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    missing: list[int | None] = []
    for file in files:
        size = "? bytes" if file.size_bytes is None else readable(file.size_bytes)
        console.print(f"{file.path}   {size}   {_state(file)}\n    {file.url}")
        if not file.path.exists():
            missing.append(file.size_bytes)
    console.print(f"{len(missing)} of {len(files)} files are missing, {_total(missing)}; {readable(free)} free")


def _state(file: RemoteFile) -> str:
    if file.path.exists():
        return "there"
    if file.packing and file.archive.exists():
        return "downloaded, to be unpacked"
    done = num_done(file.part)
    return f"begun, {readable(done)}" if done else "missing"


def _rows(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _total(sizes: Sequence[int | None]) -> str:
    """The sum of what is known, `+` for what is not."""
    known = [size for size in sizes if size is not None]
    if not known:
        return "?" if sizes else "0 B"
    return readable(sum(known)) + (" +" if len(known) < len(sizes) else "")
