"""`qinco encode engine=ray`: the files that any other run writes, whoever dies."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qinco_lit.encoding.encode_file import encode
from qinco_lit.vectors import VectorFile, open_vectors
from tests.cli.conftest import Qinco, qinco
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS, contents, save_codec, save_vectors

__all__ = ["qinco"]


class _DiesOnce(VectorFile):
    """Vectors whose first worker that reads beyond the first shard is killed."""

    def __init__(self, vectors: VectorFile, killed: Path) -> None:
        self.__dict__.update(vectors.__dict__)
        self._killed, self._driver = killed, os.getpid()

    def __getitem__(self, key: Any) -> np.ndarray:
        if os.getpid() != self._driver and isinstance(key, slice) and key.start >= SHARD_ROWS:
            try:
                self._killed.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A codec with lists, base.npy, the same rows as emb/*.parquet with ids, and the codes of these by this process."""
    save_codec(tmp_path / "codec", lists=5)
    rows = np.asarray(open_vectors(save_vectors(tmp_path / "base.npy")))
    for folder in ("emb", "expected", "ray"):
        (tmp_path / folder).mkdir()
    for number, ids in enumerate(np.array_split(np.arange(NUM_ROWS), [400])):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows[ids].ravel()), rows.shape[1])
        pq.write_table(pa.table({"id": 10 * ids, "embedding": lists}), tmp_path / "emb" / f"part-{number}.parquet")
    encode(
        codec=tmp_path / "codec", vectors=open_vectors(tmp_path / "emb"), shard_rows=SHARD_ROWS,
        output=tmp_path / "expected" / "codes", trainer={"accelerator": "cpu", "devices": 1},
    )  # fmt: skip
    return tmp_path


@pytest.mark.usefixtures("cluster")
def test_the_same_files_though_a_worker_is_killed(inputs: Path, qinco: Qinco) -> None:
    vectors = _DiesOnce(open_vectors(inputs / "emb"), inputs / "killed")
    output, given = inputs / "ray" / "codes", {"codec": inputs / "codec", "shard_rows": SHARD_ROWS}
    encode(vectors=vectors, output=output, engine="ray", trainer=None, **given)
    assert (inputs / "killed").exists()
    found, expected = (
        {name: rows for name, rows in contents(inputs / folder).items() if "codes.json" not in name}
        for folder in ("ray", "expected")
    )
    assert list(found) == ["codes/part-0.parquet", "codes/part-1.parquet"]
    assert found == expected
    record = json.loads((inputs / "ray" / "codes.json").read_text())
    assert (record["device"], record["num_ranks"], record["num_rows_encoded"]) == ("cpu", 2, NUM_ROWS)

    # on the command line, where relative paths begin; a vector that is none costs its shard
    rows = np.load(inputs / "base.npy")
    rows[700, 1] = np.nan
    np.save(inputs / "bad.npy", rows)
    words = ["engine=ray", "codec=codec", f"shard_rows={SHARD_ROWS}", "trainer.devices=1"]
    done = qinco("encode", *words, "input=bad.npy", "output=ray/bad.h5")
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "qinco: error: bad.npy: vector 700 holds NaN or infinity (as float32): repair or remove it"
    )
    assert sorted(path.stem for path in (inputs / "ray" / "bad.h5.shards").glob("shard-*.json")) == [
        "shard-00000", "shard-00001"
    ]  # fmt: skip


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "tpu"}, "trainer.accelerator=tpu: engine=ray takes auto, cpu or gpu"),
        ({"devices": [0, 1]}, r"trainer.devices=\[0, 1\]: engine=ray takes auto, or how many tasks work at a time"),
    ],
)
def test_options_that_ray_does_not_take(inputs: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(
            codec=inputs / "codec", vectors=open_vectors(inputs / "base.npy"), output=inputs / "codes.h5",
            trainer=options, engine="ray",
        )  # fmt: skip


def test_without_ray(inputs: Path, qinco: Qinco, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = qinco("encode", "engine=ray", "codec=codec", "input=base.npy", "output=codes.h5")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "qinco: error: Ray is not installed: pip install 'qinco_lit[ray]'"
