"""Settings of every test: no tracker, no window, one thread per library."""

import os

import tests.typechecker  # noqa: F401  (the jaxtyping hook looks it up by name)

for _name, _value in {"WANDB_MODE": "disabled", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(_name, _value)
