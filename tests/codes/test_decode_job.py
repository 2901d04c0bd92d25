"""`qinco decode` writes what `Codec.decode` gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.encoding.decode_file import decode_file
from qinco_lit.vectors import open_codes, open_vectors
from tests.codes.conftest import contents, save_codec

Decode = Callable[..., Path]


@pytest.fixture
def decoded(codec_dir: Path, tmp_path: Path) -> Decode:
    def run(codes: Path, name: str = "out.fvecs", **options: Any) -> Path:
        decode_file(**{"codec": codec_dir, "codes": codes, "output": tmp_path / name, "device": "cpu", **options})
        return tmp_path / name

    return run


@pytest.mark.parametrize("name", ["out.fvecs", "out.fbin", "out.npy", "out.h5:vectors"])
def test_equals_the_codec(job, decoded, codec_dir, name):
    path = job()
    expected = Codec.load(codec_dir).decode(open_codes(path)[:])
    np.testing.assert_array_equal(open_vectors(decoded(path, name))[:], expected)


@pytest.mark.parametrize("options", [{"packed": True}, {"merge": True}])
def test_the_form_of_the_store_does_not_matter(job, decoded, options):
    plain = decoded(job("plain.h5"), "plain.npy").read_bytes()
    assert decoded(job("other.h5", **options), "other.npy").read_bytes() == plain


@pytest.mark.parametrize("batch_size", [1, 137, 5000])
def test_steps_and_rows(job, decoded, codec_dir, batch_size):
    path = job()
    codes, codec = open_codes(path)[:], Codec.load(codec_dir)
    output = decoded(path, num_steps=2, start=250, stop=403, batch_size=batch_size)
    np.testing.assert_allclose(open_vectors(output)[:], codec.decode(codes[250:403, :2]), rtol=1e-5, atol=1e-5)
    assert len(open_vectors(decoded(path, start=990))) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, r"num_steps=0: .*codes.h5 has codes of 3 steps, give 1 to 3"),
        ({"num_steps": 4}, r"num_steps=4: .*codes.h5 has codes of 3 steps, give 1 to 3"),
        ({"start": 5, "stop": 5}, r"start=5 stop=5: .*codes.h5 has 1000 rows; give 0 <= start < stop"),
        ({"stop": 1001}, r"start=0 stop=1001: .*codes.h5 has 1000 rows; give 0 <= start < stop"),
        ({"start": -1}, r"start=-1 stop=1000: .*"),
        ({"batch_size": 0}, r"batch_size=0: give at least 1"),
        ({"num_threads": 0}, r"num_threads=0: give at least 1"),
        ({"device": "gpu"}, r"unknown device gpu; choose from: auto, cpu, cuda, cuda:N"),
        ({"name": "out.bvecs"}, r".*out.bvecs: .bvecs holds uint8, not float32"),
    ],
)
def test_what_cannot_be(job, decoded, tmp_path, options, message):
    path = job()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}$"):
        decoded(path, **options)
    assert contents(tmp_path) == before


def test_another_codec_and_an_incomplete_store_are_refused(job, decoded, tmp_path):
    path = job()
    other = save_codec(tmp_path / "other", seed=1)
    with pytest.raises(
        ValueError, match=r"codes.h5 holds codes of another codec: its weights have SHA-256 [0-9a-f]{12}…,"
    ):
        decoded(path, codec=other)
    (tmp_path / "codes.h5.shards" / "shard-00001.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.h5: the file of this shard is missing"):
        decoded(path)
    assert not (tmp_path / "out.fvecs").exists()
