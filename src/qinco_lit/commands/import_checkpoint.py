"""`import`: a published checkpoint becomes a codec folder, published centroids an npy file."""

import argparse
import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco import`."""
    parser.add_argument(
        "checkpoint",
        metavar="FILE",
        type=Path,
        help="a .pt file of the QINCo2 repository or of the QINCo1 release, or ivf_centroids_*.npy",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        required=True,
        help="codec folder to write; for centroids the float32 .npy file",
    )
    parser.add_argument(
        "--centroids",
        metavar="FILE.npy",
        type=Path,
        help="coarse centroids in raw space, for an IVF checkpoint that lacks its own",
    )


def run(options: argparse.Namespace) -> None:
    """Read the file and write what it becomes. Raises FileNotFoundError or ValueError for a file it cannot use."""
    from qinco_lit.published import import_checkpoint, write_centroids

    if options.checkpoint.suffix == ".npy":
        if options.centroids is not None:
            raise ValueError(f"{options.checkpoint} holds centroids itself: leave out --centroids {options.centroids}")
        num_lists, dim = write_centroids(options.checkpoint, options.output)
        _log.info("%s: %d coarse centroids, %d dimensions", options.output, num_lists, dim)
        return
    codec = import_checkpoint(options.checkpoint, centroids=options.centroids)
    codec.save(options.output)
    _log.info("%s: %d codes of %d, %d dimensions", options.output, codec.num_steps, codec.codebook_size, codec.dim)
