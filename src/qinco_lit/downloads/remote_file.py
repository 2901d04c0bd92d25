"""One file to download: where it comes from, where it goes, what lies beside it meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """A file of a folder, by its url; archives (`.gz`, `.tar.gz`) become the one file in them that is wanted.

    Attributes:
        url: http, https or ftp.
        folder: of the set of files; `DOWNLOADS.json` lies in it.
        name: path below the folder, `gnd/idx_1M.ivecs`; a tar archive yields the member of this file name.
        size_bytes: of the file after unpacking, None where that is not known.
        check: is what a path, maybe of a temporary name, holds the file that is wanted? Raises ValueError with what is
            wrong in words that follow the name of the file.
    """

    url: str
    folder: Path
    name: str
    size_bytes: int | None = None
    check: Callable[[Path], None] = lambda _: None

    @property
    def path(self) -> Path:
        """Where it goes."""
        return self.folder / self.name

    @property
    def packing(self) -> str | None:
        """`.tar.gz`, `.gz`, or None for a file that is stored as it is."""
        for suffix in (".tar.gz", ".gz"):
            if self.url.endswith(suffix) and not self.name.endswith(suffix):
                return suffix
        return None

    @property
    def archive(self) -> Path:
        """An archive that somebody put there: it is unpacked instead of downloaded, and kept."""
        return self._beside(self.packing or "")

    @property
    def source(self) -> Path:
        """What the file is made of: that archive if it is there, or else the part."""
        return self.archive if self.packing is not None and self.archive.exists() else self.part

    @property
    def part(self) -> Path:
        """The unfinished download."""
        return self._beside(f"{self.packing or ''}.part")

    @property
    def unpacked(self) -> Path:
        """The file while it is being unpacked."""
        return self._beside(".unpacking")

    @property
    def lock(self) -> Path:
        """Held by the process that downloads this file."""
        return self._beside(".lock")

    @property
    def exact_bytes(self) -> int | None:
        """`size_bytes` where it is sure: the header of an npy file has more than one usual length."""
        return None if self.path.suffix == ".npy" else self.size_bytes

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)
