"""Vectors at urls: the rows of the file, read by ranges, and every fault one line with the url."""

import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from qinco_lit.data.ground_truth import exact_ground_truth
from qinco_lit.vectors import formats, open_vectors, remote
from tests.vectors.test_vectors_read import random_rows, same
from tests.vectors.test_vectors_tables import column

ROWS = random_rows(400, 6, "f2")


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """`memory://emb` with an npy file of two parts, a Parquet file of them, and small ranges."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    for number, part in enumerate(np.split(ROWS, [150])):
        put(f"emb/part-{number + 9}.npy", tmp_path, part)
    content = pa.table({"id": np.arange(len(ROWS)), "embedding": column(ROWS), "other": column(ROWS)})
    put("tables/x.parquet", tmp_path, content)
    monkeypatch.setattr(remote, "_RANGE_BYTES", 40 * ROWS[0].nbytes)
    monkeypatch.setattr(remote, "_GAP_BYTES", 5 * ROWS[0].nbytes)


def put(name: str, folder, content) -> None:
    """A file at memory://NAME."""
    local = folder / "content"
    if isinstance(content, np.ndarray):
        with local.open("wb") as stream:
            np.save(stream, content)
    else:
        pq.write_table(content, local, row_group_size=100)
    with fsspec.open(f"memory://{name}", "wb") as stream:
        stream.write(local.read_bytes())


@pytest.mark.parametrize("url", ["memory://emb/*.npy", "memory://emb", "memory://tables/x.parquet:embedding"])
def test_rows_are_those_of_the_files(url):
    vectors = open_vectors(url)
    assert vectors.shape == ROWS.shape
    assert vectors.name == ("x.parquet:embedding" if "tables" in url else "emb")
    ids = np.random.default_rng(0).permutation(len(ROWS))
    for reader in (vectors, pickle.loads(pickle.dumps(vectors))):
        same(reader[ids], ROWS[ids])
        same(reader[3:9], ROWS[3:9])
        same(reader[np.array([], int)], ROWS[:0])
        same(np.concatenate(list(reader.iter_batches(64))), ROWS)
        same(reader.view(10, 300)[::7], ROWS[10:300:7])
    assert vectors.row_groups.max() <= 100


@pytest.mark.parametrize("url", ["memory://emb/part-9.npy", "memory://tables/x.parquet:embedding"])
def test_only_the_ranges_that_are_needed_are_read(monkeypatch, url):
    read = []
    whole = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **options):
        content = whole(self, path, start=start, end=end, **options)
        read.append(len(content))
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(formats, "_HEAD_BYTES", 256)
    vectors = open_vectors(url)
    opened = sum(read)
    vectors[20:60]
    if "npy" in url:
        assert opened == 256
        assert sum(read) - opened == 40 * ROWS[0].nbytes
        vectors[np.array([3, 1, 149, 148])]
        assert sum(read) - opened == (40 + 3 + 2) * ROWS[0].nbytes
    else:  # one column of one row group, besides the footer
        assert sum(read) - 2 * opened < 100 * ROWS[0].nbytes + 1000


def test_neighbours_are_known_by_the_version_of_the_files(tmp_path):
    tables, files = open_vectors("memory://tables/x.parquet:embedding"), open_vectors("memory://emb")
    for vectors in (tables, files):
        found = exact_ground_truth(vectors.view(0, 3), vectors, first_row=0, cache_dir=str(tmp_path / "cache"))
        assert found[:, 0].tolist() == [0, 1, 2]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_every_fault_is_one_line_with_the_url(tmp_path):
    for url, kind, message in [
        ("memory://emb/x.npy", FileNotFoundError, r"^memory://emb/x\.npy: no such file$"),
        ("memory://emb/x-*.npy", FileNotFoundError, r"^memory://emb/x-\*\.npy: no file of vectors is named like this$"),
        (
            "memory://emb/x.fvecs",
            ValueError,
            r"x\.fvecs: of urls only \.npy and \.parquet files are read, not \.fvecs$",
        ),
        (
            "memory://tables/x.parquet",
            ValueError,
            r"name a column, .*:COLUMN; columns of vectors there: embedding other$",
        ),
        ("nonsense://emb/x.npy", OSError, r"^nonsense://emb/x\.npy cannot be read: Protocol not known: nonsense$"),
    ]:
        with pytest.raises(kind, match=message):
            open_vectors(url)
    many = open_vectors("memory://emb")
    put("emb/part-10.npy", tmp_path, ROWS[:9])
    with pytest.raises(ValueError, match=r"^memory:///emb/part-10\.npy: \d+ bytes when opened, now \d+; reopen it$"):
        many[:]
    table = open_vectors("memory://tables/x.parquet:embedding")
    fsspec.filesystem("memory").rm("/tables/x.parquet")
    with pytest.raises(FileNotFoundError, match=r"^memory://tables/x\.parquet: no such file$"):
        table[:]
