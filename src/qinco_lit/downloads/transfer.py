"""From a server to a `.part` file: over several connections, through drops and restarts."""

import random
import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass, field

from qinco_lit.downloads.faults import Interrupted, RemoteChangedError, TemporaryError
from qinco_lit.downloads.part import Part, Segment
from qinco_lit.downloads.progress import Progress
from qinco_lit.downloads.remote_file import RemoteFile
from qinco_lit.downloads.sources import Remote, Source

_MAX_PAUSE_S = 60.0
_LOOK_EVERY_S = 0.2  # at whether to stop
_LEAST_RATE = 100  # bytes/s over `timeout_s`; below, another connection may do better
_MAX_VERSIONS = 3  # of a file that changes on the server while it is downloaded


@dataclass(frozen=True)
class Settings:
    """How to download.

    Attributes:
        jobs: connections at the same time, over all files.
        timeout_s: how long a connection may be silent, or send less than 100 bytes/s.
        tries: attempts in a row that bring nothing new, before giving up; any new byte starts the count again.
        pause_s: before the second attempt; it doubles with each, up to a minute.
        segment_bytes: what one request asks for, where a server gives parts of files.
    """

    jobs: int = 4
    timeout_s: float = 60.0
    tries: int = 8
    pause_s: float = 1.0
    segment_bytes: int = 64 << 20


@dataclass(frozen=True)
class Run:
    """What the files of one command share: the settings, the connections, and whether the user stopped it."""

    settings: Settings
    progress: Progress
    connections: threading.Semaphore
    stopped: threading.Event = field(default_factory=threading.Event)

    def retry_pause_s(self, tries: int, fault: TemporaryError) -> float:
        """Return how long to wait after so many failed attempts, randomly spread so that segments do not rush back."""
        pause = min(self.settings.pause_s * 2.0 ** (tries - 1), _MAX_PAUSE_S)
        return max(pause * random.uniform(0.5, 1.0), fault.retry_after_s)


def probe(source: Source, run: Run, tries: int) -> Remote:
    """Ask a server for the facts of a file, several times if needed.

    Raises:
        ValueError: the file cannot be had, or no attempt got an answer.
    """
    for attempt in range(1, tries + 1):
        try:
            return source.probe()
        except TemporaryError as fault:
            if attempt == tries:
                raise ValueError(f"{source.url}: {fault}; gave up after {tries} attempts") from fault
            if run.stopped.wait(run.retry_pause_s(attempt, fault)):
                raise Interrupted from None
    raise AssertionError("tries is at least 1")


def transfer(file: RemoteFile, source: Source, remote: Remote, run: Run) -> Remote:
    """Make the part of a file complete and return the facts of what it is.

    Raises:
        ValueError: the file cannot be had; OSError: it cannot be written; Interrupted: the run was stopped.
    """
    for _ in range(_MAX_VERSIONS):
        part = Part(file.part, source.url, remote, run.settings.segment_bytes)
        run.progress.begin(file.name, "downloading", part.num_done, remote.size_bytes)
        try:
            _Transfer(file, source, remote, part, run).run()
        except RemoteChangedError:
            run.progress.note(f"{file.name}: changed on the server, starting again")
            remote = probe(source, run, run.settings.tries)
        else:
            if not all(segment.finished for segment in part.segments):
                raise ValueError(f"{file.part} is not complete: remove it")
            return remote
    raise ValueError(f"{source.url} keeps changing on the server: try later")


class _TooSlowError(TemporaryError):
    """Bytes come, but at a rate that no file ends with: unlike others, this counts although there are new bytes."""


class _Pace:
    """Watches the rate of one connection, from its first byte on."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._began: float | None = None
        self._received = 0

    def keep(self, num_bytes: int) -> None:
        """Count bytes. Raises _TooSlowError if too few came within the time for which a server may be silent."""
        self._received += num_bytes
        now = time.monotonic()
        if self._began is None:
            self._began = now
        elif now - self._began > self._timeout_s:
            if self._received < _LEAST_RATE * self._timeout_s:
                raise _TooSlowError(f"the server sent only {self._received:,} bytes in {now - self._began:.0f} s")
            self._began, self._received = now, 0


class _Transfer:
    """One attempt at one version of a file."""

    def __init__(self, file: RemoteFile, source: Source, remote: Remote, part: Part, run: Run) -> None:
        self._file, self._source, self._remote, self._part, self._run = file, source, remote, part, run
        self._pending = deque(segment for segment in part.segments if not segment.finished)
        self._halted = threading.Event()  # by the first error, for the other segments
        self._error: BaseException | None = None

    def run(self) -> None:
        """Fetch all segments; the part is closed, and resumable, however this ends."""
        num_workers = min(self._run.settings.jobs, len(self._pending))
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(num_workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive() and not self._run.stopped.is_set():
                worker.join(_LOOK_EVERY_S)
        if any(worker.is_alive() for worker in workers):
            # stopped by the user, and a worker may wait for a silent server: the file stays open, the process ends soon
            self._part.save()
            raise Interrupted
        self._part.close()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._halted.is_set():
                try:
                    segment = self._pending.popleft()
                except IndexError:
                    return
                self._fetch(segment)
        except BaseException as error:  # handed to the thread that waits
            if not self._halted.is_set():
                self._error = error
                self._halted.set()

    def _fetch(self, segment: Segment) -> None:
        tries, farthest = 0, segment.done
        while not segment.finished:
            try:
                with self._run.connections:
                    self._read(segment)
            except TemporaryError as fault:
                if segment.done > farthest and not isinstance(fault, _TooSlowError):
                    tries, farthest = 0, segment.done
                tries += 1
                self._wait(tries, fault)

    def _read(self, segment: Segment) -> None:
        """One request for the rest of a segment; for all of it where the server gives no rest."""
        if not self._remote.resumable:
            self._run.progress.advance(self._file.name, -self._part.rewind(segment))
        with closing(self._source.read(self._remote, segment.start + segment.done, segment.stop)) as blocks:
            pace = _Pace(self._run.settings.timeout_s)
            for block in blocks:
                self._check_not_stopped()
                self._part.write(segment, block)
                self._run.progress.advance(self._file.name, len(block))
                if not segment.finished:
                    pace.keep(len(block))
        self._part.finish(segment)

    def _wait(self, tries: int, fault: TemporaryError) -> None:
        name, settings = self._file.name, self._run.settings
        if tries >= settings.tries:
            raise ValueError(
                f"{self._source.url}: {fault}; gave up after {tries} attempts without a new byte, "
                "the same command goes on from here"
            ) from fault
        pause_s = self._run.retry_pause_s(tries, fault)
        if tries > 1:  # a single drop is nothing to talk about
            self._run.progress.note(f"{name}: {fault}; attempt {tries + 1} of {settings.tries} in {pause_s:.0f} s")
        end = time.monotonic() + pause_s
        while (rest := end - time.monotonic()) > 0:
            self._check_not_stopped()
            self._run.stopped.wait(min(rest, _LOOK_EVERY_S))

    def _check_not_stopped(self) -> None:
        if self._run.stopped.is_set() or self._halted.is_set():
            raise Interrupted
