"""`download`: the files of the papers' data sets and the published checkpoints, only when asked for by name."""

import argparse
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qinco_lit.options import closest
from qinco_lit.progress import Progress, readable_bytes

if TYPE_CHECKING:
    from qinco_lit.downloads import RemoteFile
    from qinco_lit.vectors.data_facts import DataFile

_log = logging.getLogger(__name__)

# Data configs without published files, and why.
_LOCAL = {
    "photo_sift": "is built here when it is first used, from installed packages: there is nothing to download",
    "docs_text": "is built here when it is first used, from installed packages: there is nothing to download",
    "files": "stands for files of your own: there is nothing to download",
}
_CONSOLE_WIDTH = 100  # of a table that goes to a file or a pipe


@dataclass(frozen=True)
class PublishedSet:
    """A data set of a data config: the folder of its files, and `files(small=...)`, which they are."""

    folder: Path
    files: "Callable[..., Sequence[DataFile]]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco download`."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="data set or checkpoint; without it they are listed")
    parser.add_argument("--small", action="store_true", help="the first million database vectors (data.size=1M)")
    parser.add_argument("--list", action="store_true", help="list what there is, with sizes where they are known")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("QINCO_DATA", "data")),
        help="where data sets lie; default: the environment variable QINCO_DATA, or data",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=60.0, help="seconds a server may be silent (default: 60)"
    )
    parser.add_argument(
        "--tries", metavar="N", type=int, default=8, help="attempts in a row without a new byte (default: 8)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show files, urls, sizes and what is there; no network")
    parser.add_argument(
        "--verify", action="store_true", help="read what is there and compare it with DOWNLOADS.json; no network"
    )


def run(options: argparse.Namespace, sets: Mapping[str, PublishedSet]) -> None:
    """Bring, list or verify files. Raises FileNotFoundError or ValueError with one line, OSError for a full disk.

    `sets` are the data sets that have published files; the checkpoints are known here.
    """
    from qinco_lit.downloads import Settings, download, verify

    for name, least in {"tries": 1, "timeout": 0.001}.items():
        if getattr(options, name) < least:
            raise ValueError(f"--{name} {getattr(options, name)}: give at least {least}")
    if options.list or options.name is None:
        _print_table(sets)
        return
    files = remote_files(options.name, sets, options.data_dir, small=options.small)
    if options.dry_run:
        _print_files(files, shutil.disk_usage(_existing(files[0].folder)).free)
        return
    with Progress("bytes") as progress:
        if options.verify:
            verify(files, progress)
        else:
            download(files, Settings(timeout_s=options.timeout, tries=options.tries), progress)
    _log.info(_next_step(options, files, sets))


def remote_files(name: str, sets: Mapping[str, PublishedSet], data_dir: Path, *, small: bool) -> "list[RemoteFile]":
    """Return the files of a name, at the places where configs look for them. Raises ValueError for an unknown name."""
    from qinco_lit.downloads import CHECKPOINTS, RemoteFile

    if name in sets:
        folder = sets[name].folder
        files = sets[name].files(small=small)
        checks = [_matrix(Path(file.path).name, file.num_rows, file.dim) for file in files]
        return [RemoteFile(f.url, folder, f.path, f.size_bytes, check) for f, check in zip(files, checks, strict=True)]
    if name in _LOCAL:
        raise ValueError(f"data={name} {_LOCAL[name]}")
    if name not in CHECKPOINTS:
        hint = closest(name, [*sets, *CHECKPOINTS])
        raise ValueError(f"nothing is published under the name {name}{hint}; `qinco download` lists what is")
    if small:
        raise ValueError(f"--small is for data sets: {name} has one size")
    found = CHECKPOINTS[name]
    is_model = found.file_name.endswith(".pt")
    check = _archive_of_torch if is_model else _matrix(found.file_name, found.num_rows, found.dim)
    return [RemoteFile(found.url, data_dir / "checkpoints", found.file_name, found.size_bytes, check)]


def _next_step(options: argparse.Namespace, files: "list[RemoteFile]", sets: Mapping[str, PublishedSet]) -> str:
    state = "undamaged" if options.verify else "complete"
    if options.name not in sets:
        output = Path("codecs") / options.name if files[0].path.suffix == ".pt" else "centroids.npy"
        return f"{files[0].path}: {state}; next: qinco import {files[0].path} --output {output}"
    return f"{files[0].folder}: {state}, {len(files)} files"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


# --- what there is ---------------------------------------------------------------------------------------------------


def _print_table(sets: Mapping[str, PublishedSet]) -> None:
    """Print every name with what it is and its size; `+` stands for files of unknown size."""
    from rich.console import Console
    from rich.table import Table

    from qinco_lit.downloads import CHECKPOINTS

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


def _print_files(files: "Sequence[RemoteFile]", free: int) -> None:
    """Print every file with its url, its size where it is known, and what of it is there; then the sum."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    missing: list[int | None] = []
    for file in files:
        size = "? bytes" if file.size_bytes is None else readable_bytes(file.size_bytes)
        console.print(f"{file.path}   {size}   {_state(file)}\n    {file.url}")
        if not file.path.exists():
            missing.append(file.size_bytes)
    console.print(f"{len(missing)} of {len(files)} files are missing, {_total(missing)}; {readable_bytes(free)} free")


def _state(file: "RemoteFile") -> str:
    from qinco_lit.downloads.part import read_state

    if file.path.exists():
        return "there"
    if file.packing and file.archive.exists():
        return "downloaded, to be unpacked"
    state = read_state(file.part)
    if file.packing and state["complete"]:
        return "downloaded, to be unpacked"
    return f"begun, {readable_bytes(state['done'])}" if state["done"] else "missing"


def _rows(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _total(sizes: Sequence[int | None]) -> str:
    """The sum of what is known, `+` for what is not."""
    known = [size for size in sizes if size is not None]
    if not known:
        return "?" if sizes else "0 B"
    return readable_bytes(sum(known)) + (" +" if len(known) < len(sizes) else "")


# --- is it the file that is wanted -----------------------------------------------------------------------------------


def _matrix(file_name: str, num_rows: int | None, dim: int | None) -> Callable[[Path], None]:
    """A check that a file is a matrix in the format that its name says, with these sizes where they are known."""

    def check(path: Path) -> None:
        from qinco_lit.vectors import open_vectors

        with tempfile.TemporaryDirectory() as folder:
            # open_vectors goes by the suffix, which an unfinished file has not got
            named = Path(folder) / file_name
            named.symlink_to(path.absolute())
            try:
                shape = open_vectors(named).shape
            except ValueError as error:
                reason = str(error).replace(f"{named}: ", "")
                raise ValueError(f"is no proper {named.suffix} file ({reason})") from error
        for found, expected, what in zip(shape, (num_rows, dim), ("rows", "dimensions"), strict=True):
            if expected not in (None, found):
                raise ValueError(f"has {found:,} {what}, the catalogue says {expected:,}")

    return check


def _archive_of_torch(path: Path) -> None:
    """A check that a file is a zip, as `torch.save` writes; `qinco import` looks at the rest."""
    if not zipfile.is_zipfile(path):
        raise ValueError("is no torch checkpoint")
