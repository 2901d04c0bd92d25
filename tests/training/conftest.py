"""A small clustered data set in files, as a user would bring it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qinco_lit.vectors import write_vectors
from tests.processes import Child, qinco

SMALL = [
    "data=files",
    "data.num_val=256",
    "model.num_steps=3",
    "model.codebook_size=16",
    "model.embed_dim=8",
    "model.hidden_dim=16",
    "model.num_candidates=4",
    "model.beam_size=3",
    "recipe.batch_size=128",
    "recipe.split_every_batches=5",
    "recipe.baselines_below_rows=0",  # what is tested is the training
    "logger=none",
]


def clustered(rows: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    """Vectors around 40 centres with correlated noise: quantizable, but not by a few codewords."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.random.default_rng(99).standard_normal((40, dim))
    mixing = np.random.default_rng(98).standard_normal((dim, dim))
    noise = 3 * rng.standard_normal((rows, dim)) @ mixing
    return (centres[rng.integers(40, size=rows)] + noise).astype(np.float32)


@pytest.fixture(scope="session")
def vectors_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "train.fvecs"
    write_vectors(path, clustered(2048 + 256))
    return path


@pytest.fixture
def small(vectors_path: Path, tmp_path: Path) -> list[str]:
    return [*SMALL, f"data.train={vectors_path}", f"data_dir={tmp_path / 'data'}"]


@pytest.fixture
def quick_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPQ with 16 centroids instead of 256, which take most of a small training; of this process only."""
    monkeypatch.setattr("qinco_lit.training.faiss_start._MOST_BITS", 4)


Start = Callable[..., Child]


@pytest.fixture
def start(small: list[str], tmp_path: Path) -> Start:
    """Start `qinco train` in a process of its own."""

    def run(*arguments: str, defaults: bool = True) -> Child:
        return Child(qinco, ["train", *(small if defaults else []), *arguments], cwd=tmp_path)

    return run
