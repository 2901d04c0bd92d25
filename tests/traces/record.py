"""Take the golden traces anew: `python -m tests.traces.record [FAMILY ...] [--into FOLDER]`.

When that is allowed: when a change of numbers is meant, in the commit that makes it. Its message, and CHANGELOG.md
where users see it, show the MSE before and after of every family that changed, as this command tells them, and say why.
A refactoring changes no trace. Neither does a trace that fails elsewhere: `made_on` says where it holds to the bit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.traces.families import FAMILIES
from tests.traces.machine import ROOT, environment, made_on

TRACES = ROOT / "tests" / "golden" / "traces"
_TAKEN_HERE = "--in-this-process"


def read(folder: Path, family: str) -> dict[str, Any]:
    """A stored trace."""
    trace: dict[str, Any] = json.loads((folder / f"{family}.json").read_text())
    return trace


def record(folder: Path, families: Iterable[str] = FAMILIES) -> None:
    """Take traces into FOLDER/FAMILY.json, all in one process of its own, which imports torch once."""
    command = [sys.executable, "-m", "tests.traces.record", _TAKEN_HERE, "--into", str(folder.absolute()), *families]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no trace could be taken:\n{done.stdout}\n{done.stderr}")


def _take(folder: Path, families: Iterable[str]) -> None:
    import tests.composed  # noqa: F401  (a third of the time: commands are composed as ever, from files read once)
    from tests.traces.take import take

    for family in families:
        with tempfile.TemporaryDirectory() as empty:
            trace = {"made_on": made_on(), **take(family, Path(empty))}
        (folder / f"{family}.json").write_text(as_text(trace) + "\n")


def as_text(value: Any, indent: str = "") -> str:
    """JSON that shows in a diff which figure has changed: a key a line, and a row a line of lists of lists."""
    inner = indent + "  "
    if isinstance(value, dict) and len(json.dumps(value)) > 100:
        lines = [f"{inner}{json.dumps(name)}: {as_text(entry, inner)}" for name, entry in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], list | dict):
        lines = [f"{inner}{as_text(entry, inner)}" for entry in value]
    else:
        return json.dumps(value)
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n" + ",\n".join(lines) + f"\n{indent}{ends[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--into", type=Path, default=TRACES, metavar="FOLDER")
    parser.add_argument(_TAKEN_HERE, action="store_true", dest="here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"no family {sorted(unknown)}: choose from {', '.join(FAMILIES)}")
    options.into.mkdir(parents=True, exist_ok=True)
    if options.here:
        _take(options.into, options.families)
        return
    before = {name: read(options.into, name) for name in options.families if (options.into / f"{name}.json").is_file()}
    record(options.into, options.families)
    for name in options.families:
        was, now = before.get(name, {}), read(options.into, name)
        change = "the same" if was == now else f"{was.get('decode_mse')} -> {now['decode_mse']}"
        sys.stdout.write(f"{name}: MSE {change}\n")


if __name__ == "__main__":
    main()
