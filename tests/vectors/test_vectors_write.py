import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from qinco_lit import atomic
from qinco_lit.vectors import VectorWriter, open_vectors, sinks, write_vectors

SUFFIXES = ["fvecs", "fbin", "npy", "hdf5:train"]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)

WRITE_WITHOUT_ROOM = """
import resource, sys
sys.dont_write_bytecode = True  # a compiled module would be cut, too, and stay so
import numpy as np
from qinco_lit.vectors import write_vectors
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # EFBIG, as a full disk gives ENOSPC
rows = np.ones((1000, 100), dtype=np.float32)
try:
    write_vectors(sys.argv[1], iter([rows]) if sys.argv[2] == "batches" else rows)
except OSError as error:
    sys.stdout.write(str(error))
"""


def refused(call, message, error=ValueError):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exception_leaves_nothing_new_and_the_old_file_intact(tmp_path, suffix):
    path = f"{tmp_path}/x.{suffix}"

    def write_half():
        with VectorWriter(path, dim=3, dtype=np.float32) as writer:
            writer.append(ROWS)
            assert len(list(tmp_path.iterdir())) == len(before) + 1
            raise KeyboardInterrupt

    before = []
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []
    write_vectors(path, ROWS)
    before = list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == before
    np.testing.assert_array_equal(open_vectors(path)[:], ROWS)
    write_vectors(path, 2 * ROWS[:2])
    assert list(tmp_path.iterdir()) == before
    np.testing.assert_array_equal(open_vectors(path)[:], 2 * ROWS[:2])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch, suffix):
    done = []
    sync, replace = atomic._fsync, Path.replace
    monkeypatch.setattr(atomic, "_fsync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("rename"), replace(path, to)))
    write_vectors(f"{tmp_path}/x.{suffix}", ROWS)
    assert done[1:] == ["rename", tmp_path.name]
    assert done[0].startswith(".x.")
    assert done[0].endswith(".tmp")


@pytest.mark.parametrize("suffix", ["fvecs", "u8bin", "npy"])
def test_a_full_disk_gives_one_line_and_no_file(tmp_path, monkeypatch, suffix):
    written = sinks._ByteSink._write

    def write(sink, data):
        if data.nbytes > 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(sink, data)

    monkeypatch.setattr(sinks._ByteSink, "_write", write)
    path = f"{tmp_path}/x.{suffix}"
    refused(
        lambda: write_vectors(path, iter([np.ones((1, 8), np.uint8), np.ones((999, 8), np.uint8)])),
        f"[Errno 28] {path}: No space left on device after 1 vectors of dimension 8; "
        "nothing was kept, free some space and write again",
        OSError,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["matrix", "batches"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_the_system_refuses_leaves_the_old_file(tmp_path, suffix, form):
    path = f"{tmp_path}/x.{suffix}"
    write_vectors(path, ROWS)
    before = [(file.name, file.read_bytes()) for file in tmp_path.iterdir()]
    done = subprocess.run(
        [sys.executable, "-c", WRITE_WITHOUT_ROOM, path, form], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"[Errno 27] {path}: File too large after ")
    assert done.stdout.endswith(" vectors of dimension 100; nothing was kept, free some space and write again")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == before


def test_hdf5_keeps_the_other_datasets(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["test"] = 3 * ROWS
        file["group/train"] = ROWS[:1]
        file.attrs["distance"] = "euclidean"
    write_vectors(f"{path}:group/train", ROWS)
    with VectorWriter(f"{path}:codes", dim=2, dtype=np.uint16, num_rows=3) as writer:
        writer.append(np.arange(6).reshape(3, 2))
    with h5py.File(path) as file:
        assert file.attrs["distance"] == "euclidean"
        np.testing.assert_array_equal(file["test"], 3 * ROWS)
        np.testing.assert_array_equal(file["group/train"], ROWS)
        np.testing.assert_array_equal(file["codes"], np.arange(6).reshape(3, 2))
        assert file["codes"].dtype == np.uint16
    refused(lambda: write_vectors(f"{path}:group", ROWS), f"{path}:group: 'group' is a group of datasets; name another")
    refused(
        lambda: write_vectors(f"{path}:test/x", ROWS),
        f"{path}:test/x: 'test' is a dataset, not a group; name another",
    )
    np.testing.assert_array_equal(open_vectors(f"{path}:group/train")[:], ROWS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("existing", [False, True])
def test_hdf5_of_many_chunks_takes_no_more_than_its_rows(tmp_path, streamed, existing):
    path = tmp_path / "x.hdf5"
    if existing:
        with h5py.File(path, "w", userblock_size=512) as file:
            file["test"] = ROWS
    rows = np.random.default_rng(0).random((30_000, 50), dtype=np.float32)
    write_vectors(
        f"{path}:train", (rows[first : first + 3700] for first in range(0, 30_000, 3700)) if streamed else rows
    )
    np.testing.assert_array_equal(open_vectors(f"{path}:train")[:], rows)
    # Chunks are 1 MiB, and the last one may be nearly empty.
    assert path.stat().st_size < rows.nbytes + (1 << 20) * streamed + (32 << 10)


def test_a_vector_file_is_copied_into_another_format(tmp_path):
    write_vectors(tmp_path / "a.bvecs", np.arange(200, dtype=np.uint8).reshape(50, 4))
    vectors = open_vectors(tmp_path / "a.bvecs").view(10, 40)
    write_vectors(tmp_path / "b.fbin", vectors)
    copied = open_vectors(tmp_path / "b.fbin")
    assert copied.dtype == np.float32
    np.testing.assert_array_equal(copied[:], vectors[:])


def test_new_files_have_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").touch()
    write_vectors(tmp_path / "x.fvecs", ROWS)
    assert (tmp_path / "x.fvecs").stat().st_mode == (tmp_path / "plain").stat().st_mode


CASTS = [
    ("x.ivecs", np.array([[1, 2**31 - 1]], dtype=np.int64), None),
    ("x.ivecs", np.array([[1, 2**31]], dtype=np.int64), f"value {2**31} does not fit int32 ({-(2**31)}..{2**31 - 1})"),
    ("x.ibin", np.array([[-(2**40), 0]]), f"value {-(2**40)} does not fit int32 ({-(2**31)}..{2**31 - 1})"),
    ("x.bvecs", np.array([[255, 0]]), None),
    ("x.bvecs", np.array([[-1, 0]]), "value -1 does not fit uint8 (0..255)"),
    ("x.bvecs", np.array([[1.0, 2.0]]), "float64 does not fit uint8 without loss; convert it first, .astype"),
    ("x.i8bin", np.array([[128]], dtype=np.uint8), "value 128 does not fit int8 (-128..127)"),
    ("x.fvecs", np.array([[1, 2]], dtype=np.uint8), None),
    ("x.fvecs", np.array([[0.5]], dtype=np.float16), None),
    ("x.fvecs", np.array([[0.5]]), "float64 does not fit float32 without loss; convert it first, .astype"),
    ("x.fbin", np.array([[1]]), "int64 does not fit float32 without loss; convert it first, .astype"),
]


@pytest.mark.parametrize(("file", "rows", "message"), CASTS)
def test_casts_keep_every_value_or_are_refused(tmp_path, file, rows, message):
    path = f"{tmp_path}/{file}"
    if message is None:
        write_vectors(path, rows)
        np.testing.assert_array_equal(open_vectors(path)[:], rows)
    else:
        refused(lambda: write_vectors(path, rows), f"{path}: {message}")
        assert list(tmp_path.iterdir()) == []


def write_batches(path, *batches, **options):
    with VectorWriter(path, **options) as writer:
        for batch in batches:
            writer.append(batch)


def test_writing_mistakes_are_one_line(tmp_path):
    fvecs, npy, h5 = (f"{tmp_path}/x.{suffix}" for suffix in ("fvecs", "npy", "h5"))
    known = ".fvecs .bvecs .ivecs .fbin .u8bin .i8bin .ibin .npy .hdf5:DATASET .h5:DATASET .parquet .arrow .feather"
    refused(lambda: write_vectors("x.csv", ROWS), f"x.csv: unknown suffix '.csv'; known: {known}")
    refused(lambda: write_vectors(fvecs, ROWS[0]), f"{fvecs}: cannot write shape (3,); vectors are (rows, dim)")
    refused(lambda: write_vectors(fvecs, ROWS[:0]), f"{fvecs}: cannot write shape (0, 3); vectors are (rows, dim)")
    refused(
        lambda: write_vectors(fvecs, iter([])),
        f"{fvecs}: cannot write a first batch of shape (0, 0); batches are (n, dim)",
    )
    refused(lambda: write_batches(fvecs, dim=3), f"{fvecs}: no vectors to write")
    refused(
        lambda: write_batches(fvecs, ROWS, ROWS[:, :2], dim=3),
        f"{fvecs}: cannot append shape (4, 2); batches are (n, 3)",
    )
    refused(lambda: write_batches(fvecs, ROWS, dim=0), f"{fvecs}: cannot write dimension 0, not in 1..1048576")
    refused(lambda: write_batches(fvecs, ROWS, dim=3, dtype=np.uint8), f"{fvecs}: .fvecs holds float32, not uint8")
    refused(lambda: write_batches(npy, ROWS, dim=3), f"{npy}: give dtype=, the suffix .npy does not fix it")
    refused(lambda: write_vectors(h5, ROWS), f"{h5}: name the dataset to write, {h5}:DATASET")
    refused(lambda: write_batches(npy, dim=3, dtype="f4", num_rows=0), f"{npy}: cannot write a file of 0 vectors")
    for suffix in ("fvecs", "h5:train"):
        path = f"{tmp_path}/x.{suffix}"
        for num_rows in (3, 5):
            refused(
                lambda path=path, num_rows=num_rows: write_batches(path, ROWS, dim=3, dtype="f4", num_rows=num_rows),
                f"{path}: 4 vectors appended, but num_rows says {num_rows}",
            )
    refused(
        lambda: VectorWriter(fvecs, dim=3).append(ROWS),
        f"{fvecs}: append inside a with block: with VectorWriter(...) as writer",
    )
    assert list(tmp_path.iterdir()) == []


def test_destinations_that_cannot_be_written_are_named(tmp_path):
    path = f"{tmp_path}/no/x.npy"
    refused(
        lambda: write_vectors(path, ROWS),
        f"{path}: the folder {tmp_path}/no does not exist; make it first",
        FileNotFoundError,
    )
    (tmp_path / "d.npy").mkdir()
    refused(lambda: write_vectors(tmp_path / "d.npy", ROWS), f"{tmp_path}/d.npy: is a directory, not a file to write")
    (tmp_path / "x.h5").write_bytes(b"text")
    refused(
        lambda: write_vectors(f"{tmp_path}/x.h5:a", ROWS),
        f"{tmp_path}/x.h5:a: the existing file is not HDF5; remove it first",
    )
    assert (tmp_path / "x.h5").read_bytes() == b"text"
