"""Commands in processes of their own that need not import everything again: for laws that are not about Python's start.

A process started as a user starts it imports torch and Lightning for some seconds. Here a process that has imported
everything once, and has computed nothing, forks a child per command (`multiprocessing`'s fork server; one per process
of tests). The child has the arguments, folder, environment, output, signals and exit status of a started one. What
Python and libraries read as they load (PYTHONHASHSEED, OMP_NUM_THREADS) is that of the tests.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.processes_preload"])


class Child:
    """A process as `subprocess.Popen` gives it, as far as tests ask: its output is text, of both streams together.

    Args:
        work: is called in the child with `arguments`; what it returns is the exit status.
        arguments: of `work`, picklable.
        cwd: folder in which it runs.
        env: its environment; None: that of this process.
    """

    def __init__(
        self, work: Callable[..., int | None], *arguments: Any, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        read, write = os.pipe()
        given = (work, arguments, str(cwd), dict(os.environ if env is None else env), _Output(write))
        self._process = _CONTEXT.Process(target=_in_child, args=given)
        self._process.start()
        os.close(write)
        assert self._process.pid is not None
        self.pid = self._process.pid
        weakref.finalize(self, _end, self._process)  # of a test that has failed, say
        self._said: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=(read,), daemon=True)
        self._reader.start()

    def _read(self, read: int) -> None:
        with open(read, "rb", buffering=0) as output:
            while block := output.read(1 << 16):
                self._said.append(block)

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait for its end, at most so many seconds, and return what it has written."""
        self._process.join(timeout)
        self._reader.join(timeout)
        if self.returncode is None or self._reader.is_alive():
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return b"".join(self._said).decode(), None


class _Output:
    """A descriptor that is sent to the child as the child is started."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._descriptor),)


def _received(sent: Any) -> int:
    descriptor: int = sent.detach()
    return descriptor


def _end(process: Any) -> None:
    if process.is_alive():
        process.kill()
        process.join()


def _in_child(
    work: Callable[..., int | None], arguments: Sequence[Any], cwd: str, env: dict[str, str], output: int
) -> None:
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(work(*arguments))
    finally:
        atexit._run_exitfuncs()  # a fork server's children leave without


def run(work: Callable[..., int | None], *arguments: Any, timeout: float = 300, **options: Any) -> tuple[int, str]:
    """Run a child to its end; its exit status and what it has written."""
    child = Child(work, *arguments, **options)
    said = child.communicate(timeout)[0]
    assert child.returncode is not None
    return child.returncode, said


def run_ranks(
    work: Callable[..., int | None], *arguments: Any, num_ranks: int, cwd: Path, timeout: float = 300
) -> None:
    """Run a job of several ranks, each a child with the environment that torchrun gives, and one thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    children = []
    for rank in range(num_ranks):
        own = {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0, "RANK": rank, "LOCAL_RANK": rank, **shared}
        env = {**os.environ, **{name: str(value) for name, value in own.items()}}
        children.append(Child(work, *arguments, cwd=cwd, env=env))
    said = [child.communicate(timeout)[0] for child in children]
    assert [child.returncode for child in children] == [0] * num_ranks, said


def qinco(arguments: Sequence[str]) -> int:
    """The command as its script calls it; work of a `Child`."""
    from qinco_lit.cli import main

    sys.argv = ["qinco", *arguments]
    return main()
