"""Room on the disk: looked for before, and told of when it ends."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from qinco_lit.downloads.part import num_done
from qinco_lit.downloads.remote_file import RemoteFile, readable
from qinco_lit.downloads.sources import Remote


def check_room(files: Sequence[tuple[RemoteFile, Remote | None]]) -> None:
    """Raise ValueError if a disk has less room than what is missing of the files, archives and their contents."""
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for file, remote in files:
        place = next(folder for folder in file.path.absolute().parents if folder.exists())
        disk = place.stat().st_dev
        places[disk] = place
        to_fetch = 0 if remote is None else (remote.size_bytes or file.size_bytes or 0) - num_done(file.part)
        to_unpack = (file.size_bytes or 0) if file.packing else 0
        needed[disk] = needed.get(disk, 0) + to_fetch + to_unpack
    for disk, num_bytes in needed.items():
        free = shutil.disk_usage(places[disk]).free
        if num_bytes > free:
            raise ValueError(
                f"{places[disk]} has {readable(free)} free, {readable(num_bytes)} are needed (archives and what is in "
                "them): make room or choose another folder"
            )


def full_disk_told(error: Exception, file: RemoteFile) -> Exception:
    """A full disk in the words of a download; other errors as they are."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = os.strerror(error.errno)
        return OSError(error.errno, f"{file.path}: {text}; make room, then the same command goes on from here")
    return error
