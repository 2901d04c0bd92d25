"""What a process of tests does before it imports anything that takes time: its environment, no search for garbage.

OpenMP reads its settings as it is loaded, so they come first in a process that was not started by another one of tests,
too (WORKERS=0). One thread per library is what tests need; where they ask for several, or the package does, these sleep
while they wait for each other, as those of the commands do (`qinco_lit.cli.main`). Beside other work three files of
tests of faiss took 97 CPU seconds with threads that spin, 18 with these.

Half a million objects stay of what is imported. To look through them for garbage again and again took an eighth of the
collecting of tests, and some 3 % of the tests.
"""

import gc
import os

for _name, _value in {
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}.items():
    os.environ.setdefault(_name, _value)

gc.disable()


def all_is_imported() -> None:
    """From now on there is garbage to look for, among what is new."""
    gc.freeze()
    gc.enable()
