"""`qinco index` through the command line: one directory, one table, mistakes in one line."""

import re
from pathlib import Path

import numpy as np
import pytest

from qinco_lit.search.searcher import Searcher
from tests.search.indexes import DIM, LISTS, ivf_codec

DATA = ["data=files", "data.train=train.npy", "data.database=base.npy", "data.num_val=50"]
INPUTS = ["codec=codec", "codes=codes.h5", *DATA]


@pytest.fixture
def files(qinco, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, rows in {"train": 350, "base": 250}.items():
        np.save(tmp_path / f"{name}.npy", np.float32(4 * rng.normal(size=(rows, DIM))))
    ivf_codec().save(tmp_path / "codec")
    encoded = qinco("encode", "codec=codec", "input=base.npy", "output=codes.h5", "trainer.accelerator=cpu")
    assert encoded.code == 0, encoded.err


def test_from_codes_to_an_index(qinco, files, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    built = qinco("index", *INPUTS, "output=base.index", "device=cpu", "num_training=200", "num_threads=1")
    assert built.code == 0, built.err
    for words in ("vectors", "MSE on validation", "additive", "full", "seconds"):
        assert words in built.out
    rows = dict(re.findall(r"^ *(bytes per vector|fixed MB)  +(.*?) *$", built.out, re.MULTILINE))
    assert rows["bytes per vector"] == "11: codes 2, norm 1, id 8"
    folder = tmp_path / "base.index"
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "config.json"]
    size = sum(path.stat().st_size for path in files)
    fixed, named = rows["fixed MB"].split(": ")
    assert float(fixed) == pytest.approx((size - 250 * 11) / 1e6, abs=1e-3)
    parts = {name: float(share) for name, share in re.findall(r"([a-z ]+) ([0-9.]+)(?:, |$)", named)}
    assert list(parts) == ["centroids", "pairwise", "others"]
    assert parts["centroids"] == pytest.approx(LISTS * DIM * 4 / 1e6, abs=1e-3)
    assert sum(parts.values()) == pytest.approx(float(fixed), abs=2e-3)
    assert "training: encoding 200 vectors" in built.err
    assert "additive decoder: fitting 200 vectors" in built.err
    assert built.err.splitlines()[-1].startswith("base.index: 250 vectors, in ")
    assert {path.name for path in tmp_path.iterdir()} - before == {"base.index"}
    searcher = Searcher.load(tmp_path / "base.index")
    assert (len(searcher), searcher.dim) == (250, DIM)
    again = qinco("index", *INPUTS, "output=base.index", "device=cpu", "num_training=200")
    assert (again.code, again.out, again.err) == (0, "", "base.index is complete already: 250 vectors\n")


def test_mistakes_leave_nothing(refused, files, tmp_path):
    assert refused("index", "codes=codes.h5", *DATA, "output=x").startswith("codec=DIR is required: qinco index")
    assert refused("index", "codec=codec", *DATA, "output=x").startswith("codes=FILE.h5 is required")
    assert refused("index", *INPUTS).startswith("output=DIR is required")
    assert refused("index", "codec=codec", "codes=codes.h5", "output=x").startswith("data=CHOICE is required")
    assert refused("index", *INPUTS, "output=x", "parts=two") == "parts=two: expected an integer"
    assert refused("index", *INPUTS, "output=x", "on_disc=true").startswith(
        "unknown option on_disc (did you mean on_disk?)"
    )
    assert refused("index", *INPUTS, "output=x", "ids=gone.npy") == "ids=gone.npy: no such file"
    assert refused("index", *INPUTS, "output=train.npy").startswith("output=train.npy exists and is no index")
