"""The `train` command from a clone: python train.py model=qinco2 data=bigann."""

import sys

from qinco_lit.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
