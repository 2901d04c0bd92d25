"""`fit-preselector`: give a codec without pre-selectors (QINCo1) fitted ones, so that it can try fewer codewords."""

import argparse
import logging
from pathlib import Path

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("codec", type=Path, help="codec directory")
    parser.add_argument("--vectors", type=Path, required=True, help="training vectors (fvecs, bvecs, npy, HDF5 ...)")
    parser.add_argument("--output", type=Path, required=True, help="directory to write the codec to")
    parser.add_argument("--rows", type=int, default=2048, help="vectors to use, the first ones (default 2048)")


def run(options: argparse.Namespace) -> None:
    """Fit and write.

    Raises:
        FileNotFoundError: no codec, or no such file.
        ValueError: vectors of another dimension, with NaN, or none; the output exists and is no codec.
    """
    from qinco_lit.codec import Codec
    from qinco_lit.progress import shown
    from qinco_lit.vectors import open_vectors

    if options.rows < 1:
        raise ValueError(f"--rows {options.rows}: give at least 1")
    codec = Codec.load(options.codec)
    vectors = open_vectors(options.vectors)
    with shown("fitting the pre-selectors"):
        codec.fit_preselector(vectors[: options.rows])
    codec.save(options.output)
    log.info("%s: pre-selectors fitted on %d vectors", options.output, min(options.rows, len(vectors)))
