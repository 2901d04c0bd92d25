"""Inputs of `qinco index`, and the command with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.commands.index import index
from tests.search.index_jobs import ROWS, TRAIN, VAL, Build, data_of, encode_file
from tests.search.indexes import DIM, LISTS, ivf_codec


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """codec/, other/ (another codec), train.npy, base.npy, codes.h5 of base.npy."""
    folder = tmp_path_factory.mktemp("inputs")
    codec = ivf_codec()
    assert codec.coarse_centroids is not None
    codec.save(folder / "codec")
    ivf_codec(seed=1).save(folder / "other")
    rng = np.random.default_rng(0)
    for name, rows in {"train": TRAIN + VAL, "base": ROWS}.items():
        x = codec.coarse_centroids[rng.integers(0, LISTS - 1, rows)] + 2 * rng.normal(size=(rows, DIM))
        np.save(folder / f"{name}.npy", np.float32(x))
    encode_file(folder / "codec", folder / "base.npy", folder / "codes.h5", beam_size=2, precision="float32")
    return folder


@pytest.fixture
def build(inputs: Path, tmp_path: Path) -> Build:
    """Run `index` into a folder of `tmp_path`, with the inputs unless others are given."""

    def run(name: str = "index", **options: Any) -> dict[str, Any] | None:
        data = data_of(inputs, **options.pop("data", {}))
        given = {"codec_dir": inputs / "codec", "codes": inputs / "codes.h5", "device": "cpu", **options}
        return index(data=data, output=tmp_path / name, **given)

    return run
