"""Download a set of files: look what is there, is there room, fetch, check, put in place."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from qinco_lit.downloads.faults import Interrupted
from qinco_lit.downloads.manifest import MANIFEST, Entry, Manifest, now
from qinco_lit.downloads.part import became, state_path
from qinco_lit.downloads.progress import Progress
from qinco_lit.downloads.remote_file import RemoteFile, readable
from qinco_lit.downloads.room import check_room, full_disk_told
from qinco_lit.downloads.sources import Remote, Source, open_source
from qinco_lit.downloads.transfer import Run, Settings, probe, transfer
from qinco_lit.downloads.unpack import sha256, unpack
from qinco_lit.locks import locked

_FIRST_TRIES = 3  # while the user waits for the first sign of life
_STOP_S = 3.0

__all__ = ["Settings", "check_present", "download", "verify"]


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
                busy = f"{file.path} is being downloaded by another process"
                locks.enter_context(locked(file.lock, busy=busy))
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
        if file.packing is not None and became(file.archive, file.part):
            file.archive.unlink()
        state_path(file.part).unlink(missing_ok=True)


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
    digest = _digest(file, file.path, progress, partial(progress.advance, file.name))
    progress.end(file.name)
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
        self._files, self._progress = files, progress
        self._run = Run(settings, progress, threading.Semaphore(settings.jobs))
        self._sources: dict[RemoteFile, Source] = {f: open_source(f.url, settings.timeout_s) for f in files}
        self._remotes: dict[RemoteFile, Remote] = {}
        self._errors: dict[RemoteFile, Exception] = {}

    def run(self) -> None:
        for file in self._files:
            file.unpacked.unlink(missing_ok=True)  # of an unpacking that was killed
        self._for_each(self._probe, [file for file in self._files if not _has_archive(file)])
        available = [file for file in self._files if file not in self._errors]
        check_room([(file, self._remotes.get(file)) for file in available])
        self._for_each(self._bring, available)
        if self._errors:
            failed = [file for file in self._files if file in self._errors]
            first, others = self._errors[failed[0]], [file.name for file in failed[1:]]
            if not others:
                raise first
            raise ValueError(f"{first} (and of the {len(self._files)} files, {', '.join(others)} failed too)")

    def _for_each(self, work: Callable[[RemoteFile], None], files: Sequence[RemoteFile]) -> None:
        """Do something with every file, in threads of their own; what fails is kept in `_errors`."""

        def guarded(file: RemoteFile, ended: threading.Event) -> None:
            try:
                work(file)
            except Interrupted:
                pass
            except Exception as error:
                self._errors[file] = full_disk_told(error, file)
                self._progress.end(file.name)
                self._progress.note(f"failed: {self._errors[file]}")
            finally:
                ended.set()

        # events, as a join that Ctrl-C interrupts takes the thread for ended (Python 3.11)
        ends = [threading.Event() for _ in files]
        for file, ended in zip(files, ends, strict=True):
            # daemons: a thread that waits for a silent server must not keep an interrupted process
            threading.Thread(target=guarded, args=(file, ended), daemon=True).start()
        try:
            for ended in ends:
                while not ended.wait(0.2):
                    pass
        except KeyboardInterrupt:
            self._run.stopped.set()
            for ended in ends:
                ended.wait(_STOP_S)
            raise

    def _probe(self, file: RemoteFile) -> None:
        remote = probe(self._sources[file], self._run, _FIRST_TRIES)
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
        self._remotes[file] = remote

    def _bring(self, file: RemoteFile) -> None:
        version = None
        if not _has_archive(file):
            remote = transfer(file, self._sources[file], self._remotes[file], self._run)
            version = remote.version
            if remote.size_bytes not in (None, size := file.part.stat().st_size):
                raise ValueError(f"{file.part} has {size:,} bytes instead of {remote.size_bytes:,}: remove it")
        if file.packing is None:
            digest = _digest(file, file.part, self._progress, self._advance(file))
            self._put_in_place(file, file.part, digest, version)
            state_path(file.part).unlink(missing_ok=True)
        else:
            if not file.archive.exists():
                file.part.rename(file.archive)  # its state stays, as the sign that the archive is not the user's
            try:
                self._put_in_place(file, file.unpacked, self._unpack(file), version)
            finally:
                file.unpacked.unlink(missing_ok=True)
            if became(file.archive, file.part):
                file.archive.unlink()
                state_path(file.part).unlink(missing_ok=True)
            else:
                self._progress.note(f"{file.archive}: kept, as it was there before")
        self._progress.end(file.name)

    def _unpack(self, file: RemoteFile) -> str:
        self._progress.begin(file.name, "unpacking", 0, file.size_bytes)
        advance = self._advance(file)
        return unpack(file.archive, file.packing or "", file.path.name, file.unpacked, advance, file.exact_bytes)

    def _advance(self, file: RemoteFile) -> Callable[[int], None]:
        def advance(num_bytes: int) -> None:
            if self._run.stopped.is_set():
                raise Interrupted
            self._progress.advance(file.name, num_bytes)

        return advance

    def _put_in_place(self, file: RemoteFile, content: Path, digest: str, version: str | None) -> None:
        """Check a complete file of a temporary name, record it, and give it its name."""
        manifest, size = Manifest(file.folder), content.stat().st_size
        kept = file.archive if file.packing else file.part
        try:
            _check_content(file, content)
        except ValueError as error:
            raise ValueError(
                f"{file.url} {error}: remove {kept} to fetch it once more, or make it {file.path} by hand if right"
            ) from error
        entry = manifest.entry(file.name)
        if entry is not None and entry.sha256 != digest:
            raise ValueError(
                f"{file.url} is another file than on {entry.recorded[:10]}: SHA-256 {digest}, then {entry.sha256}; "
                f"remove {kept} to fetch it once more, or the entry of {file.name} in {manifest.path} to accept it"
            )
        if entry is None:
            manifest.record(file.name, Entry(file.url, size, digest, now(), downloaded=True, version=version))
        content.rename(file.path)
        self._progress.note(f"{file.path}: {readable(size)}, SHA-256 {digest[:12]}…")


def _has_archive(file: RemoteFile) -> bool:
    return file.packing is not None and file.archive.exists()


def _digest(file: RemoteFile, path: Path, progress: Progress, advance: Callable[[int], None]) -> str:
    progress.begin(file.name, "checking", 0, path.stat().st_size)
    return sha256(path, advance)


def _check_content(file: RemoteFile, path: Path) -> None:
    _check_size(path.stat().st_size, file.exact_bytes)
    file.check(path)


def _check_size(found: int | None, expected: int | None, source: str = "the catalogue") -> None:
    """Raise ValueError if both are known and differ, in words that follow the name of the file."""
    if None not in (found, expected) and found != expected:
        raise ValueError(f"has {found:,} bytes, {source} says {expected:,}")
