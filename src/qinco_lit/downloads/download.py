"""Download a set of files, one after the other: what is there, is there room, fetch, check, put in place."""

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qinco_lit.atomic import full_disk_code
from qinco_lit.downloads.manifest import MANIFEST, Entry, Manifest, now
from qinco_lit.downloads.part import Part, read_state, remove
from qinco_lit.downloads.remote_file import RemoteFile
from qinco_lit.downloads.servers import ChangedError, FtpFile, HttpFile, Remote, TemporaryError, open_url
from qinco_lit.downloads.unpack import sha256, unpack
from qinco_lit.locks import locked
from qinco_lit.progress import Progress, readable_bytes

_FIRST_TRIES = 3  # while the user waits for the first sign of life
_MAX_PAUSE_S = 60.0
_MAX_VERSIONS = 3  # of a file that changes on the server while it is downloaded


@dataclass(frozen=True)
class Settings:
    """How to download.

    Attributes:
        timeout_s: how long a connection may be silent.
        tries: attempts in a row that bring nothing new, before giving up; any new byte starts the count again.
        pause_s: before the second attempt; it doubles with each, up to a minute.
    """

    timeout_s: float = 60.0
    tries: int = 8
    pause_s: float = 1.0

    def retry_pause_s(self, tries: int, fault: TemporaryError) -> float:
        """Return how long to wait after so many failed attempts, randomly spread so that clients do not rush back."""
        pause = min(self.pause_s * 2.0 ** (tries - 1), _MAX_PAUSE_S)
        return max(pause * random.uniform(0.5, 1.0), fault.retry_after_s)


def download(files: Sequence[RemoteFile], settings: Settings, progress: Progress) -> None:
    """Bring files to their places; those that are there, with the right size, stay as they are.

    An interrupted download, killed in any way, is continued by the same call. Each file appears under its name when
    all of it is there and checked: length, format (`RemoteFile.check`), and SHA-256 where the manifest has one.

    Raises:
        ValueError: a file cannot be had or is not what it should be, the disk has too little room, or another process
            downloads one of the files. Other files are finished first; nothing wrong stands under a final name.
        OSError: a file cannot be written.
    """
    missing = [file for file in files if not _is_there(file)]
    with contextlib.ExitStack() as locks:
        for file in missing:
            try:
                locks.enter_context(locked(file.lock, busy=f"{file.path} is being downloaded by another process"))
            except OSError as error:
                raise _unusable(file, error) from error
        # another process may have brought some meanwhile
        _Download([file for file in missing if not file.path.exists()], settings, progress).run()


def check_present(file: RemoteFile) -> None:
    """Check a file that is there, by its length and header only. Raises ValueError with one line if it is wrong."""
    entry = Manifest(file.folder).entry(file.name)
    try:
        if entry is None:
            _check_content(file, file.path)
        else:
            _check_size(file.path.stat().st_size, entry.size_bytes, MANIFEST)
            file.check(file.path)
    except ValueError as error:
        raise ValueError(f"{file.path} {error}: remove it to download it again") from error


def _is_there(file: RemoteFile) -> bool:
    """Whether a file is there, and right; what could stop its download at the very end is looked at too."""
    try:
        Manifest(file.folder).entry(file.name)
        for path in (file.path, file.archive):
            _refuse_broken_link(path)
        if not file.path.exists():
            return False
        check_present(file)
        _tidy(file)
    except OSError as error:
        raise _unusable(file, error) from error
    return True


def _unusable(file: RemoteFile, error: OSError) -> ValueError:
    return ValueError(f"{file.path} cannot be used ({error.strerror or error}): choose another place (--data-dir)")


def _tidy(file: RemoteFile) -> None:
    """Remove what a process that was killed at the very end has left beside a file that we brought."""
    entry = Manifest(file.folder).entry(file.name)
    if entry is not None and entry.downloaded:
        remove(file.part)


def _refuse_broken_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise ValueError(
            f"{path} is a link to {path.readlink()}, which is not there: bring that back or remove the link"
        )


def verify(files: Sequence[RemoteFile], progress: Progress) -> None:
    """Read files that are there and compare their SHA-256 with the manifest's; one that has none gets it.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or some differ, all of which are named; one line.
    """
    for file in files:
        _refuse_broken_link(file.path)
        if not file.path.exists():
            raise FileNotFoundError(f"{file.path} is missing: the same command without --verify brings it")
    errors = []
    for file in files:
        try:
            _verify(file, progress)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(dict.fromkeys(errors)))  # one manifest may fail several


def _verify(file: RemoteFile, progress: Progress) -> None:
    check_present(file)
    manifest = Manifest(file.folder)
    entry = manifest.entry(file.name)
    digest = _digest(file, file.path, progress)
    if entry is None:
        size = file.path.stat().st_size
        manifest.record(file.name, Entry(file.url, size, digest, now(), downloaded=False))
        progress.note(f"{file.path}: checksum recorded, there was none ({digest[:12]}…)")
    elif digest != entry.sha256:
        raise ValueError(f"{file.path} is damaged: SHA-256 {digest}, {entry.sha256} on {entry.recorded}")
    else:
        progress.note(f"{file.path}: as on {entry.recorded[:10]} ({digest[:12]}…)")


class _Download:
    def __init__(self, files: Sequence[RemoteFile], settings: Settings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._servers = {file: open_url(file.url, settings.timeout_s) for file in files}
        self._remotes: dict[RemoteFile, Remote] = {}
        self._errors: dict[RemoteFile, Exception] = {}

    def run(self) -> None:
        files = list(self._servers)
        for file in files:
            with self._noting(file):
                file.unpacked.unlink(missing_ok=True)  # of an unpacking that was killed
                if not _is_fetched(file):
                    self._remotes[file] = self._look(file, self._servers[file])
        available = [file for file in files if file not in self._errors]
        _check_room([(file, self._remotes.get(file)) for file in available])
        for file in available:
            with self._noting(file):
                self._bring(file)
        if self._errors:
            first, *others = [file for file in files if file in self._errors]
            if not others:
                raise self._errors[first]
            names = ", ".join(file.name for file in others)
            raise ValueError(f"{self._errors[first]} (and of the {len(files)} files, {names} failed too)")

    @contextlib.contextmanager
    def _noting(self, file: RemoteFile) -> Iterator[None]:
        """Keep what fails in the block: the other files are finished first."""
        try:
            yield
        except Exception as error:
            self._errors[file], code = error, full_disk_code(error)
            if code is not None:
                text = f"{os.strerror(code)}; make room, then the same command goes on from here"
                self._errors[file] = OSError(code, f"{file.path}: {text}")
            self._progress.note(f"failed: {self._errors[file]}")

    def _look(self, file: RemoteFile, server: HttpFile | FtpFile) -> Remote:
        remote = self._facts(server, min(_FIRST_TRIES, self._settings.tries))
        if file.packing is None:
            try:
                _check_size(remote.size_bytes, file.exact_bytes)
            except ValueError as error:
                raise ValueError(
                    f"{file.url} {error}: if the publisher changed it, fetch it to {file.path} by hand"
                ) from error
        if not remote.has_end and file.packing is None and file.exact_bytes is None:
            self._progress.note(
                f"WARNING: {file.url} comes without its length: nothing shows whether all of it has come"
            )
        return remote

    def _facts(self, server: HttpFile | FtpFile, tries: int) -> Remote:
        attempt = 1
        while True:
            try:
                return server.look()
            except TemporaryError as fault:
                if attempt >= tries:
                    raise ValueError(f"{server.url}: {fault}; gave up after {tries} attempts") from fault
                time.sleep(self._settings.retry_pause_s(attempt, fault))
                attempt += 1

    def _bring(self, file: RemoteFile) -> None:
        if not _is_fetched(file):
            self._fetch(file, self._servers[file], self._remotes[file])
        if file.packing is None:
            self._put_in_place(file, file.part, _digest(file, file.part, self._progress))
        else:
            try:
                self._put_in_place(file, file.unpacked, self._unpack(file))
            finally:
                file.unpacked.unlink(missing_ok=True)
        if file.source == file.part:
            remove(file.part)
        else:
            self._progress.note(f"{file.source}: kept, as it was there before")

    def _fetch(self, file: RemoteFile, server: HttpFile | FtpFile, remote: Remote) -> None:
        """Make the part of a file complete, through drops, restarts and changes on the server."""
        tries, farthest, versions = 0, -1, 1
        while True:
            try:
                with Part(file.part, server.url, remote) as part:
                    farthest = max(farthest, part.num_done)
                    self._progress.start(f"downloading {file.name}", remote.size_bytes, done=part.num_done)
                    if part.num_done != remote.size_bytes:
                        with closing(server.read(remote, part.num_done)) as blocks:
                            for block in blocks:
                                part.write(block)
                                self._progress.advance(len(block))
                return
            except ChangedError:
                if versions == _MAX_VERSIONS:
                    raise ValueError(f"{server.url} keeps changing on the server: try later") from None
                self._progress.note(f"{file.name}: changed on the server, starting again")
                remote = self._facts(server, self._settings.tries)
                tries, farthest, versions = 0, -1, versions + 1
            except TemporaryError as fault:
                if part.num_done > farthest:
                    tries, farthest = 0, part.num_done
                tries += 1
                self._pause(file, tries, fault)

    def _pause(self, file: RemoteFile, tries: int, fault: TemporaryError) -> None:
        if tries >= self._settings.tries:
            raise ValueError(
                f"{file.url}: {fault}; gave up after {tries} attempts without a new byte, "
                "the same command goes on from here"
            ) from fault
        pause_s = self._settings.retry_pause_s(tries, fault)
        if tries > 1:  # a single drop is nothing to talk about
            attempt = f"attempt {tries + 1} of {self._settings.tries} in {pause_s:.0f} s"
            self._progress.note(f"{file.name}: {fault}; {attempt}")
        time.sleep(pause_s)

    def _unpack(self, file: RemoteFile) -> str:
        self._progress.start(f"unpacking {file.name}", file.size_bytes)
        advance = self._progress.advance
        return unpack(file.source, file.packing or "", file.path.name, file.unpacked, advance, file.exact_bytes)

    def _put_in_place(self, file: RemoteFile, content: Path, digest: str) -> None:
        """Check a complete file of a temporary name, record it, and give it its name."""
        manifest, size = Manifest(file.folder), content.stat().st_size
        try:
            _check_content(file, content)
        except ValueError as error:
            raise ValueError(
                f"{file.url} {error}: remove {file.source} to fetch it once more, or make it {file.path} by hand if "
                "right"
            ) from error
        entry = manifest.entry(file.name)
        if entry is not None and entry.sha256 != digest:
            raise ValueError(
                f"{file.url} is another file than on {entry.recorded[:10]}: SHA-256 {digest}, then {entry.sha256}; "
                f"remove {file.source} to fetch it once more, or the entry of {file.name} in {manifest.path} to "
                "accept it"
            )
        if entry is None:
            version = read_state(file.part).get("version")
            manifest.record(file.name, Entry(file.url, size, digest, now(), downloaded=True, version=version))
        content.rename(file.path)
        self._progress.note(f"{file.path}: {readable_bytes(size)}, SHA-256 {digest[:12]}…")


def _is_fetched(file: RemoteFile) -> bool:
    """Whether the archive, or all of the part, is here: nothing is asked of the server then."""
    state = read_state(file.part)
    return file.source != file.part or (state["complete"] and state.get("url") == file.url)


def _check_room(files: Sequence[tuple[RemoteFile, Remote | None]]) -> None:
    """Raise ValueError if a disk has less room than what is missing of the files, archives and their contents."""
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for file, remote in files:
        place = next(folder for folder in file.path.absolute().parents if folder.exists())
        disk = place.stat().st_dev
        places[disk] = place
        to_fetch = 0 if remote is None else (remote.size_bytes or file.size_bytes or 0) - read_state(file.part)["done"]
        to_unpack = (file.size_bytes or 0) if file.packing else 0
        needed[disk] = needed.get(disk, 0) + to_fetch + to_unpack
    for disk, num_bytes in needed.items():
        free = shutil.disk_usage(places[disk]).free
        if num_bytes > free:
            raise ValueError(
                f"{places[disk]} has {readable_bytes(free)} free, {readable_bytes(num_bytes)} are needed (archives and "
                "what is in them): make room or choose another folder"
            )


def _digest(file: RemoteFile, path: Path, progress: Progress) -> str:
    progress.start(f"checking {file.name}", path.stat().st_size)
    return sha256(path, progress.advance)


def _check_content(file: RemoteFile, path: Path) -> None:
    _check_size(path.stat().st_size, file.exact_bytes)
    file.check(path)


def _check_size(found: int | None, expected: int | None, source: str = "the catalogue") -> None:
    """Raise ValueError if both are known and differ, in words that follow the name of the file."""
    if None not in (found, expected) and found != expected:
        raise ValueError(f"has {found:,} bytes, {source} says {expected:,}")
