"""What several benchmarks start from: the newest demo's codec, and vectors of the database it was made for."""

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import torch

from datamodules.photo_sift import PhotoSiftDataModule
from qinco_lit import Codec


def codec_and_vectors(question: str, rows: int) -> tuple[Codec, np.ndarray]:
    """Read the command line ([CODEC] --root --rows), say what is measured on, return codec and raw vectors."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("codec", nargs="?", help="codec of a model trained on photo_sift; default: the newest demo's")
    parser.add_argument("--root", default="data/photo_sift", help="where photo_sift lies or is made")
    parser.add_argument("--rows", type=int, default=rows, help="database vectors")
    options = parser.parse_args()
    demos = sorted(Path("outputs/demo").glob("*/train/codec"))
    if options.codec is None and not demos:
        parser.error("no codec: run `make demo` first or name one")
    codec = Codec.load(options.codec or demos[-1])
    data = PhotoSiftDataModule(root=options.root)
    data.prepare_data()
    data.setup("test")
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load {load:.1f}, torch {torch.__version__}")
    return codec, data.database[: options.rows]
