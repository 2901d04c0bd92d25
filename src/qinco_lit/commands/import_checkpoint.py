"""`import`: a published checkpoint becomes a codec folder."""

import argparse
import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco import`."""
    parser.add_argument("checkpoint", metavar="FILE.pt", type=Path, help="checkpoint in the published QINCo2 layout")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="codec folder to write")


def run(options: argparse.Namespace) -> None:
    """Read the checkpoint and write the codec. Raises FileNotFoundError or ValueError for a file it cannot use."""
    from qinco_lit.published import import_checkpoint

    codec = import_checkpoint(options.checkpoint)
    codec.save(options.output)
    _log.info("%s: %d codes of %d, %d dimensions", options.output, codec.num_steps, codec.codebook_size, codec.dim)
