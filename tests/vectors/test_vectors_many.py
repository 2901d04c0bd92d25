"""Many files are one: rows as in one file of all of them, whatever is asked, and every fault named by its file."""

import pickle
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinco_lit.vectors import as_vectors_file, many, open_vectors, write_vectors
from tests.vectors.test_vectors_read import random_rows, same


def written(folder: Path, sizes: list[int], suffix: str = "npy", dtype: str = "f4", dim: int = 5) -> np.ndarray:
    """part-0 .. part-N of so many rows; returns all rows."""
    rows = random_rows(sum(sizes), dim, dtype)
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(np.split(rows, np.cumsum(sizes)[:-1])):
        write_vectors(folder / f"part-{number}.{suffix}", part)
    return rows


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=14))
    num_rows = sum(sizes)
    bound, step = st.none() | st.integers(-num_rows - 3, num_rows + 3), st.none() | st.integers(-7, 7).filter(bool)
    keys = [draw(st.builds(slice, bound, bound, step)) for _ in range(3)]
    keys.append(np.array(draw(st.lists(st.integers(-num_rows, num_rows - 1), max_size=30)), np.int64))
    return sizes, draw(st.sampled_from([("npy", "f2"), ("fvecs", "f4"), ("u8bin", "u1"), ("h5:x", "f4")])), keys


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_rows_are_those_of_one_file(tmp_path, case):
    sizes, (suffix, dtype), keys = case
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    rows = written(folder, sizes, suffix, dtype)
    vectors = open_vectors(f"{folder}/part-*.{suffix}")
    assert (vectors.shape, vectors.dtype, len(vectors.files)) == (rows.shape, rows.dtype, len(sizes))
    for reader in (vectors, pickle.loads(pickle.dumps(vectors))):
        for key in keys:
            same(reader[key], rows[key])
        same(np.concatenate(list(reader.iter_batches(4))), rows)
    middle = slice(len(rows) // 3, 2 * len(rows) // 3)
    same(vectors.view(middle.start, middle.stop)[:], rows[middle])
    same(vectors.unit().as_stored()[:], rows)


def test_a_glob_a_folder_and_a_list_are_in_natural_order(tmp_path):
    rows = written(tmp_path / "emb", [2] * 12)
    (tmp_path / "emb" / "README.txt").write_text("not vectors")
    (tmp_path / "emb" / ".part-0.npy").write_bytes(b"hidden")
    (tmp_path / "emb" / "_part-0.npy").write_bytes(b"an engine's own")
    parts = [tmp_path / "emb" / f"part-{number}.npy" for number in range(12)]
    for given_ in (
        f"{tmp_path}/emb/[!_]*.npy",
        f"{tmp_path}/**/part*.npy",
        tmp_path / "emb",
        parts,
        [f"{tmp_path}/emb/*"[:-1] + "p*"],
    ):
        assert open_vectors(given_).files == tuple(map(str, parts))
        same(as_vectors_file(given_)[:], rows)
    assert open_vectors([parts[3], parts[1]]).files == (str(parts[3]), str(parts[1]))
    assert open_vectors(tmp_path / "emb").name == "emb"


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path):
    rows = random_rows(3, 4, "f4")
    for name in ("a[1].npy", "a1.npy"):
        write_vectors(tmp_path / name, rows)
    assert open_vectors(tmp_path / "a[1].npy").files == (str(tmp_path / "a[1].npy"),)
    written(tmp_path / "emb [1]", [2, 3])
    assert len(open_vectors(f"{tmp_path}/emb [1]/part-*.npy")) == 5
    assert len(open_vectors(f"{tmp_path}/emb [[]1]/**/*.npy")) == 5


@pytest.mark.parametrize("name", ["emb", "emb/*.npy"])
def test_a_link_that_leads_nowhere_is_no_file_to_pass_over(tmp_path, name):
    written(tmp_path / "emb", [3, 4])
    (tmp_path / "emb" / "folder.npy").mkdir()
    (tmp_path / "emb" / "part-2.npy").symlink_to(tmp_path / "of another disk.npy")
    with pytest.raises(FileNotFoundError, match=r"part-2\.npy: no such file$"):
        open_vectors(tmp_path / name)


def test_every_fault_is_one_line_with_its_file(tmp_path):
    written(tmp_path / "a", [3, 4])
    with pytest.raises(FileNotFoundError, match=r"x-\*\.npy: no file is named like this$"):
        open_vectors(f"{tmp_path}/a/x-*.npy")
    with pytest.raises(FileNotFoundError, match=rf"in folders within: give {tmp_path}/\*\*/\*\.npy$"):
        open_vectors(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="a folder without files of vectors"):
        open_vectors(tmp_path / "empty")
    np.save(tmp_path / "a" / "part-9.npy", np.zeros((2, 6), np.float32))
    with pytest.raises(ValueError, match=r"part-9\.npy: dimension 6, but .*part-0\.npy has 5$"):
        open_vectors(tmp_path / "a")
    np.save(tmp_path / "a" / "part-9.npy", np.zeros((2, 5), np.float16))
    with pytest.raises(ValueError, match=r"part-9\.npy: dtype float16, but .*part-0\.npy has float32$"):
        open_vectors(tmp_path / "a")
    (tmp_path / "a" / "part-9.npy").unlink()
    vectors = open_vectors(tmp_path / "a")
    (tmp_path / "a" / "part-1.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"part-1\.npy: \d+ bytes when opened, now 0; reopen it$"):
        vectors[:]
    write_vectors(tmp_path / "a" / "one.fvecs", random_rows(2, 5, "f4"))
    with pytest.raises(ValueError, match=r"files of \.fvecs and \.npy: say which"):
        open_vectors(tmp_path / "a")
    (tmp_path / "h").mkdir()
    write_vectors(tmp_path / "h" / "one.h5:x", random_rows(2, 5, "f4"))
    with pytest.raises(ValueError, match=r"name their dataset, .*/\*\.h5:DATASET$"):
        open_vectors(tmp_path / "h")


def test_of_a_thousand_files_few_are_open_and_a_pickle_is_small(tmp_path):
    rows = random_rows(2000, 5, "f4")
    (tmp_path / "many").mkdir()
    for number in range(1000):
        np.save(tmp_path / "many" / f"part-{number}.npy", rows[2 * number : 2 * number + 2])
    vectors = open_vectors(f"{tmp_path}/many/*.npy")
    before = len(list(Path("/proc/self/fd").iterdir()))
    order = np.random.default_rng(0).permutation(len(rows))
    same(vectors[order], rows[order])
    same(vectors[:], rows)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2 * many._MAX_OPEN
    assert len(pickle.dumps(vectors)) < 1000 + 20 * 1000


def test_threads_read_side_by_side(tmp_path):
    rows = written(tmp_path / "many", [3] * 40)
    vectors = open_vectors(tmp_path / "many")
    wrong: list[int] = []

    def read(seed: int) -> None:
        some = np.random.default_rng(seed).integers(0, len(rows), (60, 25))
        wrong.extend(seed for ids in some if not np.array_equal(vectors[ids], rows[ids]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_resident_memory_is_flat(tmp_path):
    written(tmp_path / "big", [40_000] * 20, dim=128)  # 400 MB
    vectors = open_vectors(tmp_path / "big")
    vectors[:100]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch in vectors.iter_batches(10_000):
        assert len(batch) == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
