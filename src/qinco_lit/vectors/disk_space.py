"""Room on the disk: taken before it is needed, and told when there is none."""

import errno
import os
from pathlib import Path


def reserve(path: Path, num_bytes: int) -> None:
    """Make an existing file at least so long, with blocks on the disk behind all of it.

    The HDF5 library keeps what it could not write, and crashes the process when it cannot be written at the close
    either. So the space is taken before the library needs it, where a full disk is an ordinary OSError.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
        except OSError as error:
            # Some file systems cannot reserve.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def full_disk_code(error: BaseException) -> int | None:
    """The errno of a write that found no room, None for other errors; h5py gives it only inside the message."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return code
    return None
