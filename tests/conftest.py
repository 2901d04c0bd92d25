"""Settings of every test: no tracker, no window, one thread per library, Ctrl-C that works."""

import os
import signal

import tests.typechecker  # noqa: F401  (the jaxtyping hook looks it up by name)

for _name, _value in {"WANDB_MODE": "disabled", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(_name, _value)

# a shell that starts tests in the background has them ignore Ctrl-C, and with them every process that they interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
