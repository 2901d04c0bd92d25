"""Columns of Parquet and Arrow files are vectors as any others, and every fault is one line with file and row."""

import os
import pickle
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinco_lit.vectors import columns, open_vectors, write_vectors
from tests.vectors.test_vectors_read import random_rows, same

DTYPES = ["u1", "i1", "f2", "f4", "f8"]
LISTS = {"fixed": None, "list": pa.list_, "large_list": pa.large_list}


def column(rows: np.ndarray, kind: str = "fixed") -> pa.Array:
    """Rows as a column of lists of numbers."""
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return fixed if kind == "fixed" else fixed.cast(LISTS[kind](fixed.type.value_type))


def table(rows: np.ndarray, kind: str = "fixed", **others: object) -> pa.Table:
    """A table of an id, a text and vectors, and more."""
    texts = [f"text {number}" for number in range(len(rows))]
    return pa.table({"id": np.arange(len(rows)), "text": texts, "embedding": column(rows, kind), **others})


def write(path: Path, content: pa.Table, group_rows: int = 1 << 20) -> None:
    """In the format of the suffix, in groups of so many rows; `stream.arrow` is a stream."""
    if path.suffix == ".parquet":
        pq.write_table(content, path, row_group_size=group_rows)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(content, path, chunksize=group_rows, compression="lz4")
    else:
        kind = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, kind(file, content.schema) as writer:
            writer.write_table(content, max_chunksize=group_rows)


@st.composite
def tables(draw):
    num_rows, dim = draw(st.integers(1, 60)), draw(st.integers(1, 9))
    bound, step = st.none() | st.integers(-num_rows - 3, num_rows + 3), st.none() | st.integers(-7, 7).filter(bool)
    keys = [draw(st.builds(slice, bound, bound, step)) for _ in range(3)]
    keys.append(np.array(draw(st.lists(st.integers(-num_rows, num_rows - 1), max_size=30)), np.int64))
    suffix = draw(st.sampled_from(["x.parquet", "x.feather", "file.arrow", "stream.arrow"]))
    kind, dtype = draw(st.sampled_from(sorted(LISTS))), draw(st.sampled_from(DTYPES))
    return suffix, kind, random_rows(num_rows, dim, dtype), draw(st.integers(1, 70)), draw(st.integers(1, 9)), keys


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(case=tables())
def test_rows_are_those_of_the_column(tmp_path, monkeypatch, case):
    """Whatever the format, the lists, the groups and the pieces that are decoded."""
    name, kind, rows, group_rows, piece_rows, keys = case
    monkeypatch.setattr(columns, "_PIECE_BYTES", piece_rows * rows[0].nbytes)
    path = tmp_path / name
    write(path, table(rows, kind), group_rows)
    vectors = open_vectors(path)
    assert (vectors.shape, vectors.dtype, vectors.files) == (rows.shape, rows.dtype, (str(path),))
    for reader in (vectors, pickle.loads(pickle.dumps(vectors)), open_vectors(f"{path}:embedding")):
        for key in keys:
            same(reader[key], rows[key])
        same(np.concatenate(list(reader.iter_batches(4))), rows)
    full, rest = divmod(len(rows), group_rows)
    assert vectors.row_groups.tolist() == [group_rows] * full + [rest] * (rest > 0)
    inside = vectors.view(len(rows) // 3, len(rows) - 1)
    same(inside[:], rows[len(rows) // 3 : -1])
    assert inside.row_groups.sum() == len(inside)
    assert len(pickle.dumps(vectors)) < 1000


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_many_tables_are_one(tmp_path, suffix):
    rows = random_rows(90, 5, "f2")
    for number, part in enumerate(np.split(rows, [7, 8, 40, 77])):
        write(tmp_path / f"part-{number}.{suffix}", table(part), 10)
    for given_ in (tmp_path, f"{tmp_path}/*.{suffix}", f"{tmp_path}/*.{suffix}:embedding"):
        vectors = open_vectors(given_)
        order = np.random.default_rng(0).permutation(len(rows))
        for reader in (vectors, pickle.loads(pickle.dumps(vectors))):
            same(reader[order], rows[order])
            same(reader[5:80], rows[5:80])
            assert reader.row_groups.tolist() == [7, 1, 10, 10, 10, 2, 10, 10, 10, 7, 10, 3]
    write(tmp_path / f"part-9.{suffix}", pa.table({"vector": column(rows[:3])}), 10)
    with pytest.raises(ValueError, match=r"part-9.*: vectors in column 'vector', but .*part-0.* has column 'em"):
        open_vectors(tmp_path)
    (tmp_path / f"part-9.{suffix}").unlink()
    write_vectors(tmp_path / "other.npy", rows[:5])
    mixed = open_vectors([f"{tmp_path}/*.{suffix}", tmp_path / "other.npy"])
    same(mixed[80:], np.concatenate([rows[80:], rows[:5]]))
    assert mixed.row_groups.tolist()[-2:] == [3, 5]


def test_files_without_rows_are_passed_over_among_many(tmp_path):
    rows = random_rows(9, 5, "f4")
    write(tmp_path / "part-1.parquet", table(rows[:4]), 3)
    write(tmp_path / "part-3.parquet", table(rows[4:]), 3)
    write(tmp_path / "part-0.parquet", table(rows[:0]), 3)
    write(tmp_path / "part-2.parquet", pa.table({"embedding": pa.nulls(0)}), 3)  # as pandas writes no rows
    vectors = open_vectors(tmp_path)
    same(vectors[:], rows)
    assert [Path(file).name for file in vectors.files] == ["part-1.parquet", "part-3.parquet"]
    np.save(tmp_path / "none.npy", rows[:0])
    same(open_vectors([tmp_path / "none.npy", tmp_path / "part-1.parquet"])[:], rows[:4])
    with pytest.raises(ValueError, match=r"none\.npy,.*part-0\.parquet: no vectors, none of 2 files has a row$"):
        open_vectors([tmp_path / "none.npy", tmp_path / "part-0.parquet"])
    (tmp_path / "part-0.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"part-0\.parquet: empty file \(0 bytes\)$"):
        open_vectors(f"{tmp_path}/*.parquet")


def test_columns_of_integers_are_opened_where_they_are_named(tmp_path):
    write(tmp_path / "x.parquet", table(random_rows(9, 4, "f4"), ids32=np.arange(9, dtype=np.int32)), 4)
    same(open_vectors(tmp_path / "x.parquet:id")[:], np.arange(9).reshape(9, 1))
    same(open_vectors(tmp_path / "x.parquet:ids32")[2:4], np.array([[2], [3]], np.int32))


def test_tensors_and_columns_of_a_dictionary_beside_the_vectors(tmp_path):
    rows = random_rows(9, 4, "f4")
    shaped = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [4]), column(rows))
    content = pa.table({"kind": pa.array(["a", "b", "a"] * 3).dictionary_encode(), "embedding": shaped})
    for name in ("x.parquet", "x.feather", "file.arrow"):
        write(tmp_path / name, content, 4)
        same(open_vectors(tmp_path / name)[:], rows)
    write(tmp_path / "stream.arrow", content, 4)
    with pytest.raises(ValueError, match=r"stream\.arrow: an Arrow stream with columns of a dictionary: write it"):
        open_vectors(tmp_path / "stream.arrow")[:]


def ragged(rows: list) -> pa.Table:
    """Lists of float32 as they come."""
    return pa.table({"embedding": pa.array(rows, pa.list_(pa.float32()))})


FULL = [[1.0, 2.0]] * 5
TWO = column(random_rows(5, 2, "f4"))
FAULTS = {
    "no vectors": (pa.table({"id": [1, 2]}), r": no column of vectors \(lists of numbers\); columns there: id$"),
    "two candidates": (
        pa.table({"a": TWO, "b": TWO}),
        r": name a column, .*x\.parquet:COLUMN; columns of vectors there: a b$",
    ),
    "no rows": (table(random_rows(1, 2, "f4"))[:0], r": no vectors, the table has 0 rows$"),
    "shorter row": (ragged([*FULL, [3.0], *FULL]), r": row 5 has 1 numbers, 2 were expected$"),
    "equal in the mean": (ragged([*FULL, [3.0], [1.0, 2.0, 3.0]]), r": row 5 has 1 numbers, 2 were expected$"),
    "row is null": (ragged([*FULL, None, *FULL]), r": row 5 is null: repair or remove it$"),
    "first row is null": (ragged([None, *FULL]), r": row 0 is null: repair or remove it$"),
    "null number": (ragged([*FULL, [3.0, None]]), r": row 5 holds null: repair or remove it$"),
    "null in fixed lists": (
        pa.table({"e": pa.array([[1, 2], [3, None]], pa.list_(pa.float32(), 2))}),
        r": row 1 holds null: repair or remove it$",
    ),
    "null of fixed lists": (
        pa.table({"e": pa.array([[1, 2], [3, 4], None], pa.list_(pa.float32(), 2))}),
        r": row 2 is null: repair or remove it$",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("file", ["x.parquet", "x.feather", "stream.arrow"])
def test_every_fault_is_one_line_with_file_and_row(tmp_path, name, file):
    content, message = FAULTS[name]
    write(tmp_path / file, content, 4)
    with pytest.raises(ValueError, match=file + message.replace("x\\.parquet", file)) as error:
        open_vectors(tmp_path / file)[:]
    assert "\n" not in str(error.value)


def test_columns_that_are_not_there_or_hold_no_numbers(tmp_path):
    write(tmp_path / "x.parquet", table(random_rows(4, 2, "f4"), tags=[["a"]] * 4))
    for name, message in {
        "x": "no column 'x'; columns there: id text embedding tags$",
        "text": "column text holds string; vectors are lists of numbers, ids integers$",
        "tags": "column tags holds list<.*>; vectors are lists of numbers, ids integers$",
    }.items():
        with pytest.raises(ValueError, match=rf"x\.parquet:{name}: {message}"):
            open_vectors(tmp_path / f"x.parquet:{name}")
    with pytest.raises(ValueError, match=r"y\.parquet: vectors are not written as \.parquet; give \.npy$"):
        write_vectors(tmp_path / "y.parquet", random_rows(4, 2, "f4"))


@pytest.mark.parametrize("file", ["x.parquet", "x.feather", "file.arrow", "stream.arrow"])
def test_truncated_damaged_and_changed_files(tmp_path, file):
    path, rows = tmp_path / file, random_rows(5000, 8, "f4")
    write(path, table(rows), 1000)
    whole, vectors = path.read_bytes(), open_vectors(path)
    for content in (whole[: len(whole) // 2], b"", b"nothing of the kind" * 100):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{file}: (no (Parquet|Arrow) file, or a truncated one|empty file)"
        ) as error:
            open_vectors(path)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=rf"{file}: (no (Parquet|Arrow) file|\d+ bytes when opened)"):
            pickle.loads(pickle.dumps(vectors))[:]
    write(path, table(rows[::-1]), 999)
    path.write_bytes(path.read_bytes().ljust(len(whole), b"\0"))
    with pytest.raises(ValueError, match=rf"{file}: "):
        vectors[:]


@pytest.mark.parametrize("file", ["x.parquet", "x.feather", "stream.arrow"])
def test_a_file_that_goes_away_or_may_not_be_read_is_named_as_python_does(tmp_path, monkeypatch, file):
    path = tmp_path / file
    write(path, table(random_rows(9, 2, "f4")))
    vectors = open_vectors(path)
    path.unlink()
    with pytest.raises(FileNotFoundError) as gone:
        vectors[:]
    assert str(gone.value) == f"[Errno 2] No such file or directory: '{path}'"
    write_vectors(tmp_path / "x.h5:e", random_rows(9, 2, "f4"))
    monkeypatch.setattr(h5py, "is_hdf5", lambda _: open("/proc/self/mem/x"))  # noqa: PTH123, SIM115 (root may read all)
    with pytest.raises(NotADirectoryError) as refused:
        open_vectors(tmp_path / "x.h5:e")
    assert str(refused.value) == f"[Errno 20] Not a directory: '{tmp_path}/x.h5:e'"


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_of_columns_of_which_one_is_the_beginning_of_another_that_is_read_which_is_named(tmp_path, kind):
    rows, others = random_rows(9, 3, "f4"), random_rows(9, 1, "f4")
    names = {"e.x": others, "e": rows, "e.y": others}
    pq.write_table(pa.table({name: column(each, kind) for name, each in names.items()}), tmp_path / "x.parquet")
    for name, expected in names.items():
        same(open_vectors(f"{tmp_path}/x.parquet:{name}")[:], expected)


def test_a_damaged_page_names_its_rows(tmp_path):
    path, rows = tmp_path / "x.parquet", random_rows(4000, 8, "f4")
    pq.write_table(pa.table({"e": column(rows)}), path, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[place + 60 : place + 3000] = bytes(2940)
    path.write_bytes(content)
    vectors = open_vectors(path)
    same(vectors[:2000], rows[:2000])
    with pytest.raises(ValueError, match=r"x\.parquet: rows 2000\.\.2999 cannot be read: "):
        vectors[1990:2010]
    same(vectors[3000:], rows[3000:])


def test_feather_of_before_arrow(tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(ValueError, match=r"x\.feather: Feather version 1; write it again"):
        open_vectors(tmp_path / "x.feather")


def test_without_pyarrow_a_line_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", table(random_rows(4, 2, "f4")))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match=r"x\.parquet: Parquet and Arrow files need pyarrow: pip install 'qinco_lit\[parquet\]'$"
    ):
        open_vectors(tmp_path / "x.parquet")


@pytest.mark.parametrize("file", ["x.parquet", "file.arrow"])
def test_threads_and_forked_processes_read_side_by_side(tmp_path, file):
    rows = random_rows(3000, 8, "f4")
    write(tmp_path / file, table(rows), 100)
    vectors = open_vectors(tmp_path / file)

    def read(seed: int) -> bool:
        some = np.random.default_rng(seed).integers(0, len(rows), (10, 50))
        return all(np.array_equal(vectors[ids], rows[ids]) for ids in some)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))
        with vectors._rows._place:  # held by a thread of the parent while the child begins
            process_id = os.fork()
            if process_id == 0:
                os._exit(0 if read(9) else 1)
        assert os.waitpid(process_id, 0)[1] == 0


def test_resident_memory_is_flat(tmp_path):
    rows = random_rows(20_000, 128, "f4")
    for number in range(12):  # 120 MB, in row groups of 10 MB
        pq.write_table(pa.table({"e": column(rows)}), tmp_path / f"{number}.parquet", use_dictionary=False)
    vectors = open_vectors(tmp_path)
    vectors[:100]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch in vectors.iter_batches(10_000):
        assert len(batch) == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
