"""`python -m qinco_lit.cli` is `qinco`; Lightning starts its processes this way."""

import sys

from qinco_lit.cli import main

if __name__ == "__main__":
    sys.exit(main())
