"""Batches of Ray Data with codes: the codes of `codec.encode`, whatever kind of batch, whoever dies."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qinco_lit.codec import Codec
from qinco_lit.ray import Encoder
from tests.search.indexes import DIM, ivf_codec

ROWS = 60


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("codecs")
    ivf_codec().save(folder / "ivf")
    ivf_codec(num_lists=None).save(folder / "plain")
    return Codec.load(folder / "ivf")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.float32(np.random.default_rng(0).normal(size=(ROWS, DIM)))


def _batches(x: np.ndarray) -> dict[str, Any]:
    """The same rows as each kind of batch, of each kind of column."""
    flat, ids = pa.array(x.ravel()), np.arange(len(x))
    return {
        "arrays": {"id": ids, "embedding": x},
        "frame": pd.DataFrame({"id": ids, "embedding": list(x)}),
        "fixed": pa.table({"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, DIM)}),
        "lists": pa.table({"id": ids, "embedding": pa.array(x.tolist(), pa.list_(pa.float32()))}),
        "large": pa.table({"id": ids, "embedding": pa.array(x.tolist(), pa.large_list(pa.float32()))}),
    }


@pytest.mark.parametrize("kind", ["arrays", "frame", "fixed", "lists", "large"])
def test_every_kind_of_batch_has_the_codes_of_the_codec(codec, x, kind):
    list_ids, codes = codec.encode(x)
    batch = _batches(x)[kind]
    found = Encoder(codec.folder)(batch)
    assert type(found) is type(batch)
    assert [*(found.column_names if isinstance(found, pa.Table) else found)] == ["id", "embedding", "codes", "list_id"]
    if isinstance(found, pa.Table):
        assert found.schema.field("codes").type == pa.list_(pa.uint8(), codec.num_steps)
        assert found.schema.field("list_id").type == pa.int32()
        found = {name: found.column(name).to_pylist() for name in ("codes", "list_id")}
    np.testing.assert_array_equal(np.stack(list(found["codes"])), codes)
    np.testing.assert_array_equal(np.asarray(found["list_id"]), list_ids)


def test_rows_of_a_slice_and_of_many_chunks(codec, x):
    table = _batches(x)["fixed"]
    found = Encoder(codec.folder)(pa.concat_tables([table.slice(7, 20), table.slice(40, 5), table.slice(3, 0)]))
    rows = [*range(7, 27), *range(40, 45)]
    np.testing.assert_array_equal(np.array(found.column("codes").to_pylist()), codec.encode(x[rows])[1])


@pytest.mark.parametrize("kind", ["arrays", "frame", "fixed", "lists"])
def test_no_rows(codec, x, kind):
    batch = _batches(x)[kind]
    none = {name: rows[:0] for name, rows in batch.items()} if kind == "arrays" else batch[:0]
    codes = Encoder(codec.folder, num_steps=2)(none)["codes"]
    assert len(codes) == 0
    if kind == "arrays":
        assert (codes.shape, codes.dtype) == ((0, 2), np.uint8)
    if kind in ("fixed", "lists"):
        assert codes.type == pa.list_(pa.uint8(), 2)


def test_options_reach_the_search_and_name_the_columns(codec, x):
    plain = codec.folder.with_name("plain")
    options = {"beam_size": 2, "num_candidates": 3, "num_steps": 2}
    found = Encoder(plain, "v", codes_column="c", **options)({"v": x})
    assert list(found) == ["v", "c"]
    np.testing.assert_array_equal(found["c"], Codec.load(plain).encode(x, **options))


def test_a_pickle_holds_no_weights(codec, x):
    encoder = Encoder(codec.folder)
    codes = encoder({"embedding": x})["codes"]
    sent = pickle.dumps(encoder)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)({"embedding": x})["codes"], codes)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"vector": np.zeros((3, DIM))}, "column=embedding: the batch has vector"),
        ({"embedding": np.zeros((3, DIM)), "codes": np.zeros(3)}, "the batch has a column codes already"),
        ({"embedding": np.zeros((3, 5), np.float32)}, r"vectors of shape \(3, 5\) do not fit this codec"),
        ({"embedding": np.full((3, DIM), np.nan, np.float32)}, "vector 0 holds NaN or infinity"),
        (pd.DataFrame({"embedding": [[1.0], [1.0, 2.0]]}), "column=embedding: row 1 has 2 numbers, 1 were expected"),
        (pd.DataFrame({"embedding": [[1.0] * DIM, None]}), "column=embedding: row 1 is null"),
        (pd.DataFrame({"embedding": [[1.0], ["one"]]}), "column=embedding: no vectors"),
        (pa.table({"embedding": [[1.0], [1.0, 2.0, 3.0]]}), "column=embedding: row 1 has 3 numbers, 1 were expected"),
        (pa.table({"embedding": [[1.0], None]}), "column=embedding: row 1 is null"),
        (pa.table({"embedding": [[1.0], [None]]}), "column=embedding: row 1 holds null"),
        (pa.table({"embedding": ["one", "two"]}), "column=embedding: no vectors, it holds string"),
    ],
)
def test_bad_batches(codec, batch, message):
    with pytest.raises(ValueError, match=message):
        Encoder(codec.folder)(batch)


def test_no_codec(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no codec in {tmp_path}: config.json is missing"):
        Encoder(tmp_path)


class _DiesOnce(Encoder):
    """Kills its process at the first batch that comes to any of its kind."""

    def __init__(self, codec_dir: str, mark: Path) -> None:
        super().__init__(codec_dir)
        self._mark = mark

    def __call__(self, batch: Any) -> Any:
        try:
            self._mark.touch(exist_ok=False)
        except FileExistsError:
            return super().__call__(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        return None


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of Ray's own calls of itself
def test_a_worker_that_is_killed_costs_no_row(cluster, codec, x, tmp_path):
    data = cluster.data.from_items([{"id": row, "embedding": x[row]} for row in range(ROWS)], override_num_blocks=4)
    killed = tmp_path / "killed"
    found = data.map_batches(
        _DiesOnce, fn_constructor_args=[str(codec.folder), killed], batch_size=10, concurrency=2, num_cpus=1
    )
    rows = sorted(found.take_all(), key=lambda row: row["id"])
    assert killed.exists()
    assert [row["id"] for row in rows] == list(range(ROWS))
    list_ids, codes = codec.encode(x)
    np.testing.assert_array_equal(np.stack([row["codes"] for row in rows]), codes)
    np.testing.assert_array_equal([row["list_id"] for row in rows], list_ids)
