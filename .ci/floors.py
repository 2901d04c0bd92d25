"""Print constraints of the oldest versions that pyproject.toml allows, for `make test-floors`.

torch stays at the version of constraints.txt: the wheels of older ones for Linux are builds for CUDA, of several GB.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors() -> list[str]:
    """Return `name==floor` of every requirement that has one, of all extras, but of torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found = (re.match(r"([\w.-]+)>=([\w.]+)", each) for each in needed)
    pins = sorted({f"{each[1]}=={each[2]}" for each in found if each is not None and each[1] != "torch"})
    (torch,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    return [*pins, torch]


if __name__ == "__main__":
    sys.stdout.write("\n".join([*floors(), ""]))
