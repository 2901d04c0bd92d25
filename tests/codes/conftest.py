"""A small codec, vectors for it, and the encoding job as a function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.encoding.encode_file import encode
from qinco_lit.vectors import open_vectors, write_vectors
from tests.models import random_quantizer

DIM, NUM_ROWS, SHARD_ROWS = 6, 1000, 300
ONE_PROCESS = {"accelerator": "cpu", "devices": 1}


def save_codec(
    folder: Path,
    *,
    seed: int = 0,
    codebook_size: int = 16,
    num_steps: int = 3,
    lists: int | None = None,
    concat_rank: int | None = None,
) -> Path:
    sizes = {"num_steps": num_steps, "codebook_size": codebook_size, "num_lists": lists}
    widths = {"hidden_dim": 8, "num_blocks": 1, "num_candidates": 4, "beam_size": 3, "concat_rank": concat_rank}
    quantizer = random_quantizer(DIM, seed=seed, **sizes, **widths)
    if quantizer.coarse_centroids is not None:
        quantizer.coarse_centroids.normal_(generator=torch.Generator().manual_seed(seed))
    Codec(quantizer).save(folder)
    return folder


def save_vectors(path: Path, *, seed: int = 0, num_rows: int = NUM_ROWS) -> Path:
    rows = np.random.default_rng(seed).normal(scale=2.5, size=(num_rows, DIM))
    write_vectors(path, rows.astype(np.float32))
    return path


@pytest.fixture(scope="session")
def codec_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codec(tmp_path_factory.mktemp("codec") / "codec")


@pytest.fixture(scope="session")
def vectors_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vectors(tmp_path_factory.mktemp("vectors") / "base.fvecs")


Job = Callable[..., Path]


@pytest.fixture
def job(codec_dir: Path, vectors_path: Path, tmp_path: Path) -> Job:
    """Encode in this process; return the output."""

    def run(name: str = "codes.h5", **options: Any) -> Path:
        source = options.pop("vectors", vectors_path)
        given = {"codec": codec_dir, "shard_rows": SHARD_ROWS, "trainer": ONE_PROCESS, **options}
        given.setdefault("precision", "float32")
        encode(vectors=open_vectors(source), output=tmp_path / name, **given)
        return tmp_path / name

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the records of what encoded, which hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".h5.json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
