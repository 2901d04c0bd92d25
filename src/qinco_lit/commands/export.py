"""`export`: a codec folder becomes a checkpoint in the QINCo2 repository's layout."""

import argparse
import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco export`."""
    parser.add_argument("codec", metavar="DIR", type=Path, help="codec folder to read")
    parser.add_argument("--output", metavar="FILE.pt", type=Path, required=True, help="checkpoint to write")


def run(options: argparse.Namespace) -> None:
    """Read the codec and write the checkpoint. Raises FileNotFoundError or ValueError for what it cannot use."""
    from qinco_lit.codec import Codec
    from qinco_lit.published import export_checkpoint

    export_checkpoint(Codec.load(options.codec), options.output)
    _log.info("%s: QINCo2 layout, torch.load(..., weights_only=True) reads it", options.output)
