"""Settings of every test: those of tests/first.py, Ctrl-C that works, no time limit of an example."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests import first

# isort: split
import tests.composed
import tests.typechecker  # noqa: F401  (the jaxtyping hook looks it up by name)

# isort: split
import qinco_lit  # noqa: F401  (before anything loads faiss, for whose kernels it sees)

# a shell that starts tests in the background has them ignore Ctrl-C, and with them every process that they interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes says what else the machine does
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    first.all_is_imported()


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: there are always tests that wait, for a clock, a disk or another process."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Three threads of torch for the test."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
