"""One small piece of everything that commands make, in one folder, by the library: a second or two."""

from pathlib import Path

import numpy as np

import qinco_lit as ql
from qinco_lit.vectors import write_vectors

DIM, NUM_STEPS = 8, 4
SMALL = {"codebook_size": 32, "embed_dim": 8, "hidden_dim": 8, "num_blocks": 1, "batch_size": 256}


def clustered(num: int, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Vectors (num, dim) float32 with something to learn, seen through noise."""
    centres = np.random.default_rng(0).normal(size=(40, dim))
    rng = np.random.default_rng(seed + 1)
    return (centres[rng.integers(0, 40, num)] + 0.3 * rng.normal(size=(num, dim))).astype(np.float32)


def make_run(folder: Path, *, num_lists: int | None = None) -> ql.Codec:
    """Write train.npy and run/, the folder of a training on it, and return the codec."""
    write_vectors(folder / "train.npy", clustered(700))
    return ql.train(
        folder / "train.npy", model="qinco2_tiny", num_steps=NUM_STEPS, num_lists=num_lists, max_epochs=1,
        run_dir=folder / "run", progress=False, **SMALL,
    )  # fmt: skip


def make_artefacts(folder: Path) -> Path:
    """Write train.npy, base.npy, queries.npy, run/ (a training with lists), codes.h5 and index/, return the folder."""
    for name, num, seed in (("base", 600, 1), ("queries", 20, 2)):
        write_vectors(folder / f"{name}.npy", clustered(num, seed=seed))
    codec = make_run(folder, num_lists=4)
    store = ql.encode_file(codec, folder / "base.npy", folder / "codes.h5", progress=False)
    ql.build_index(
        codec, folder / "base.npy", codes=store, training=folder / "train.npy", output=folder / "index", progress=False
    )
    return folder
