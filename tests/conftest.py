"""Settings of every test: no tracker, no window, one thread per library, Ctrl-C that works."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

import tests.typechecker  # noqa: F401  (the jaxtyping hook looks it up by name)

for _name, _value in {"WANDB_MODE": "disabled", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(_name, _value)

# a shell that starts tests in the background has them ignore Ctrl-C, and with them every process that they interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_goes_on_telling() -> Iterator[None]:
    """Whatever ends work, an error too, ends the thread that tells how far it is."""
    yield
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(timeout=30)
            assert not thread.is_alive(), "progress is shown of work that has ended"
