"""Threads of torch and faiss that wait for others sleep, whatever the command, unless the user has said otherwise."""

import os
import subprocess
import sys

import pytest

# what a command finds when it begins: the policy, and whether OpenMP has been loaded without it
SEEN = """
import os, sys
from qinco_lit import cli

def seen(arguments):
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules or "faiss" in sys.modules)
    return 0

cli._dispatch = seen
sys.exit(cli.main(["train"]))
"""


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_the_policy_is_there_before_openmp_is(given: dict[str, str], found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    ran = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, env=environment, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == (f"{found} False\n", "", 0)
