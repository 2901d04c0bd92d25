"""`truncate`: a store of codes, or a codec, cut to the first codes of each vector."""

import argparse
import logging
from pathlib import Path

from qinco_lit.locks import check_local, only_writer

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco truncate`."""
    parser.add_argument("path", metavar="PATH", help="store of codes (codes.h5 of `qinco encode`), or codec folder")
    parser.add_argument(
        "--num-steps", metavar="M", type=int, required=True, help="codes of each vector that are kept, the first ones"
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        required=True,
        help="store (.h5) or codec folder to write, a new one; a store that was interrupted is continued",
    )


def run(options: argparse.Namespace) -> None:
    """Write the smaller store or codec.

    Raises:
        FileNotFoundError: no such store or codec, no folder for the output.
        ValueError: an output that exists and is not this work or that another process writes, steps that there are
            not, a damaged store.
        OSError: the disk is full; finished shards are kept.
    """
    from qinco_lit.encoding.truncate import truncate_codes
    from qinco_lit.vectors.layout import output_place

    source, num_steps, output = output_place(options.path), options.num_steps, options.output
    is_folder = isinstance(source, Path) and source.is_dir()
    if isinstance(source, Path) and not source.exists():
        raise FileNotFoundError(f"{source}: no such store of codes or codec folder")
    check_local(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: the folder {output.parent} does not exist; make it first")
    with only_writer(output):
        is_source = isinstance(source, Path) and output.exists() and (is_folder or output.samefile(source))
        if output.is_dir() or is_source:
            raise ValueError(f"--output {output} exists: name another one")
        if isinstance(source, Path) and is_folder:
            truncate_codec(source, num_steps, output)
        else:
            truncate_codes(source, num_steps, output)


def truncate_codec(source: Path, num_steps: int, output: Path) -> None:
    """Write a codec of the first steps of another; it decodes stores of either, and encodes as num_steps= of both."""
    from qinco_lit.codec import Codec
    from qinco_lit.encoding.truncate import check_steps

    if (source / "codec" / "config.json").is_file():
        raise ValueError(f"{source} is no codec, but holds one: give {source / 'codec'}")
    codec = Codec.load(source)
    check_steps(source, num_steps, codec.num_steps)
    codec.truncated(num_steps).save(output)
    _log.info("%s: the first %d of %d steps", output, num_steps, codec.num_steps)
