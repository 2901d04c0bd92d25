"""`info`: what a file or folder is, in a few lines, and what to do with it."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco info`."""
    parser.add_argument(
        "path", metavar="PATH",
        help="vectors (file, folder, glob, url), a store of codes, a codec, an index, the folder of a run or a sweep",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Print what it is.

    Raises:
        FileNotFoundError: there is nothing, or a part of it is missing.
        ValueError: it is nothing that is made or read here, or damaged as far as headers tell.
    """
    from qinco_lit.reports.facts.describe import describe

    what, lines = describe(options.path)
    width = max(len(name) for name, _ in lines)
    text = "".join(f"  {name:<{width}}  {value}\n" for name, value in lines)
    sys.stdout.write(f"{options.path}: {what}\n{text}")
