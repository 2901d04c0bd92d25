"""From vectors to codes and back through the command line: what is written, and nothing but that."""

from pathlib import Path

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.vectors import open_codes, open_vectors
from tests.models import random_quantizer

CPU = "trainer.accelerator=cpu"


@pytest.fixture
def files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, rows in {"train": 300, "base": 250}.items():
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(rows, 5)).astype(np.float32))
    sizes = {"num_steps": 3, "codebook_size": 16, "hidden_dim": 8, "num_blocks": 1, "num_candidates": 4, "beam_size": 3}
    Codec(random_quantizer(5, **sizes)).save(tmp_path / "codec")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_encode_verify_decode(qinco, files, tmp_path):
    before = _names(tmp_path)
    encoded = qinco("encode", "codec=codec", "input=base.npy", "output=codes.h5", CPU, "shard_rows=100")
    assert encoded.code == 0, encoded.err
    assert encoded.err.startswith("codes.h5: 250 rows, 0.0 MB of codes, in ")
    assert _names(tmp_path) - before == {"codes.h5", "codes.h5.json", "codes.h5.shards"}  # no run folder
    codec, x = Codec.load(tmp_path / "codec"), np.load(tmp_path / "base.npy")
    np.testing.assert_array_equal(open_codes(tmp_path / "codes.h5")[:], codec.encode(x))
    assert open_codes(tmp_path / "codes.h5").info.input_path == "base.npy"

    again = qinco("encode", "codec=codec", "input=base.npy", "output=codes.h5", CPU)
    assert (again.code, again.err) == (0, "codes.h5 is complete already: 250 rows\n")
    assert qinco("verify", "codes.h5").code == 0

    decoded = qinco(
        "decode", "codec=codec", "codes=codes.h5", "output=x.fvecs", "num_steps=2", "stop=200", "device=cpu"
    )
    assert decoded.code == 0, decoded.err
    np.testing.assert_allclose(
        open_vectors(tmp_path / "x.fvecs")[:], codec.decode(codec.encode(x)[:200, :2]), rtol=1e-5, atol=1e-5
    )
    assert _names(tmp_path) - before == {"codes.h5", "codes.h5.json", "codes.h5.shards", "x.fvecs"}


def test_the_database_of_a_data_set(qinco, files, tmp_path):
    options = ["codec=codec", CPU, "merge=true", "packed=true", "beam_size=2", "num_candidates=2"]
    data = [
        "data=files",
        "data.train=train.npy",
        "data.database=base.npy",
        "data.num_val=10",
        "data.limit_database=120",
    ]
    assert qinco("encode", *options, *data, "output=codes.h5").code == 0
    codes = Codec.load(tmp_path / "codec").encode(np.load(tmp_path / "base.npy")[:120], beam_size=2, num_candidates=2)
    store = open_codes(tmp_path / "codes.h5")
    np.testing.assert_array_equal(store[:], codes)
    assert (store.info.bytes_per_vector, store.info.beam_size, store.info.input_path) == (2, 2, "base.npy")


def test_mistakes_leave_nothing(refused, qinco, files):
    assert "nowhere" in refused("encode", "codec=nowhere", "input=base.npy", "output=codes.h5", CPU)
    assert refused("encode", "codec=codec", "input=gone.npy", "output=codes.h5", CPU) == "gone.npy: no such file"
    assert "data.train=FILE" in refused("encode", "codec=codec", "data=files", "output=codes.h5", CPU)
    assert qinco("encode", "codec=codec", "input=base.npy", "output=codes.h5", CPU).code == 0
    message = refused("encode", "codec=codec", "input=train.npy", "output=codes.h5", CPU)
    assert message.startswith("codes.h5 belongs to other work: num_rows is 250 there, 300 here, ")
    assert "codes.h5 has codes of 3 steps" in refused(
        "decode", "codec=codec", "codes=codes.h5", "output=x.npy", "num_steps=4", "device=cpu"
    )


def test_damage_is_one_line(refused, qinco, files, tmp_path):
    assert qinco("encode", "codec=codec", "input=base.npy", "output=codes.h5", CPU, "shard_rows=100").code == 0
    (tmp_path / "codes.h5.shards" / "shard-00001.h5").unlink()
    assert refused("verify", "codes.h5").endswith("codes.h5.shards/shard-00001.h5: the file of this shard is missing")
