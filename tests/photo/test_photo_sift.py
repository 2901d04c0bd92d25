"""Laws of the photo_sift files: what they hold, that they are reproducible, and that a build is all or nothing."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from datamodules import photo_rows, photo_views
from datamodules import photo_sift as photo_build
from datamodules.photo_sift import build_photo_sift, photo_sift, photo_sift_folder
from qinco_lit.data.data_module import data_module
from qinco_lit.vectors import exact_neighbours, open_vectors

SIZES = {"num_train": 6000, "num_val": 100, "num_database": 6000, "num_queries": 100}
TINY = {"num_train": 30, "num_val": 10, "num_database": 20, "num_queries": 5}
VECTOR_FILES = ("train.bvecs", "database.bvecs", "queries.bvecs")
ALL_FILES = (*VECTOR_FILES, "groundtruth.ivecs", "facts.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_photo_sift(tmp_path_factory.mktemp("photo"), **SIZES, num_workers=2)


@pytest.fixture
def few_views(monkeypatch):
    """A view takes 50 ms and a tiny build has many: one view a photograph, and two photographs a split."""
    monkeypatch.setattr(photo_rows, "MIN_VIEWS_PER_PHOTOGRAPH", 1)
    monkeypatch.setattr(photo_build, "TRAINING_PHOTOGRAPHS", ("rocket.jpg", "coffee.png"))
    monkeypatch.setattr(photo_build, "DATABASE_PHOTOGRAPHS", ("chelsea.png", "text.png"))


def _data_module(**options):
    """Made as by saved configs of earlier runs."""
    return data_module({"_target_": "datamodules.photo_sift.PhotoSiftDataModule", **options})


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ALL_FILES}


def rows(folder, name):
    return open_vectors(folder / name)[:]


def test_files_have_the_sizes_asked_for(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(ALL_FILES)
    assert rows(folder, "train.bvecs").shape == (SIZES["num_train"] + SIZES["num_val"], 128)
    assert rows(folder, "database.bvecs").shape == (SIZES["num_database"], 128)
    assert rows(folder, "queries.bvecs").shape == (SIZES["num_queries"], 128)
    assert rows(folder, "groundtruth.ivecs").shape == (SIZES["num_queries"], 100)


@pytest.mark.parametrize("name", VECTOR_FILES)
def test_rows_are_sift_descriptors(folder, name):
    descriptors = rows(folder, name)
    assert descriptors.dtype == np.uint8
    norms = np.linalg.norm(descriptors.astype(np.float64), axis=1)
    # OpenCV scales to 512, then rounds: 128 roundings move the norm by a few units at most.
    assert np.abs(norms - 512).max() < 6
    # SIFT clips components at 0.2 of the norm before the last scaling: few are above 128, none is near 255.
    assert (descriptors > 200).mean() < 1e-3
    # Eight orientations a cell: a histogram, so every dimension is used.
    assert (descriptors.max(axis=0) > 60).all()


def test_ground_truth_equals_a_naive_loop(folder):
    database = rows(folder, "database.bvecs").astype(np.float64)
    queries, found = rows(folder, "queries.bvecs").astype(np.float64), rows(folder, "groundtruth.ivecs")
    for query, ids in zip(queries, found, strict=True):
        squared_l2 = ((database - query) ** 2).sum(axis=1)
        np.testing.assert_array_equal(squared_l2[ids], np.sort(squared_l2)[:100])
        assert len(set(ids)) == 100


def test_queries_see_the_database_photographs_and_training_rows_do_not(folder):
    train, database, queries = (rows(folder, name) for name in VECTOR_FILES)
    to_database = np.median(exact_neighbours(queries, database, 1)[0])
    to_train = np.median(exact_neighbours(queries, train[: len(database)], 1)[0])
    assert to_database < 0.8 * to_train


def test_no_photograph_is_on_both_sides():
    training, database = set(photo_views.TRAINING_PHOTOGRAPHS), set(photo_views.DATABASE_PHOTOGRAPHS)
    assert not training & database
    pictures = {name: photo_views.load_photograph(name) for name in training | database}
    assert len({picture.tobytes() for picture in pictures.values()}) == len(training) + len(database)


def test_rows_are_shuffled_over_views(folder):
    """Neighbouring rows come from unrelated views: their distance is that of random pairs."""
    train = rows(folder, "train.bvecs").astype(np.float64)
    adjacent = ((train[1:] - train[:-1]) ** 2).sum(axis=1).mean()
    random_pairs = 2 * train.var(axis=0).sum()
    assert adjacent == pytest.approx(random_pairs, rel=0.02)


@pytest.mark.usefixtures("few_views")
def test_files_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_rows, "MIN_VIEWS_PER_PHOTOGRAPH", 4)
    one, three = (build_photo_sift(tmp_path / str(n), **TINY, num_workers=n) for n in (1, 3))
    assert contents(one) == contents(three)


@pytest.mark.usefixtures("few_views")
def test_another_seed_is_another_folder_with_other_rows(tmp_path):
    zero, again, one = (
        build_photo_sift(tmp_path / part, **TINY, seed=seed) for part, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert contents(zero) == contents(again)
    assert zero.parent == one.parent
    assert zero.name != one.name
    for name in VECTOR_FILES:
        assert rows(zero, name).tobytes() != rows(one, name).tobytes()


def test_a_view_is_cut_to_distinct_random_rows():
    everything = photo_views.view_descriptors(("coffee.png",), (0, 0), 3, 10**6)
    some = photo_views.view_descriptors(("coffee.png",), (0, 0), 3, 40)
    assert len(np.unique(everything, axis=0)) == len(everything) > 40 == len(some)
    np.testing.assert_array_equal(some, everything[:40])


def test_rows_are_a_permutation_of_the_views_rows_whatever_the_buckets(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_rows, "SHUFFLE_ROWS", 100)
    batches = np.random.default_rng(0).integers(0, 256, size=(25, 41, 128), dtype=np.uint8)
    path = tmp_path / "train.bvecs"
    photo_rows.write_shuffled(path, iter(batches), 25 * 41, np.random.default_rng(1))
    written, flat = open_vectors(path)[:], batches.reshape(-1, 128)
    assert sorted(map(bytes, written)) == sorted(map(bytes, flat))
    position = {row.tobytes(): i for i, row in enumerate(flat)}
    order = np.array([position[row.tobytes()] for row in written])
    # A global shuffle: the first fifth of the file draws from the whole input.
    assert np.corrcoef(order, np.arange(len(order)))[0, 1] == pytest.approx(0, abs=0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["train.bvecs"]


@pytest.mark.usefixtures("few_views")
def test_a_finished_folder_is_reused(tmp_path, monkeypatch):
    built = build_photo_sift(tmp_path, **TINY)
    stamps = {name: (built / name).stat().st_mtime_ns for name in ALL_FILES}
    monkeypatch.setattr(photo_build, "_write_files", lambda *_: pytest.fail("built again"))
    assert build_photo_sift(tmp_path, **TINY) == built
    assert {name: (built / name).stat().st_mtime_ns for name in ALL_FILES} == stamps


@pytest.mark.usefixtures("few_views")
def test_a_damaged_folder_is_built_again(tmp_path):
    before = contents(build_photo_sift(tmp_path, **TINY))
    folder = build_photo_sift(tmp_path, **TINY)
    os.truncate(folder / "database.bvecs", 132 * 3)
    (folder / "queries.bvecs").unlink()
    assert contents(build_photo_sift(tmp_path, **TINY)) == before


@pytest.mark.usefixtures("few_views")
def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(photo_build, "write_true_neighbours", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_photo_sift(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.usefixtures("few_views")
def test_leftovers_of_a_killed_build_are_removed_and_other_folders_are_not(tmp_path):
    (tmp_path / ".building-x").mkdir()
    (tmp_path / ".building-x" / "train.bvecs").write_bytes(b"half")
    (tmp_path / "mine").mkdir()
    folder = build_photo_sift(tmp_path, **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", folder.name])


@pytest.mark.usefixtures("few_views")
def test_without_locks_the_loser_of_a_race_drops_its_files(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)  # as on some network file systems
    write_files = photo_build._write_files
    other = build_photo_sift(tmp_path / "other", **TINY)

    def lose(folder, *arguments):
        write_files(folder, *arguments)
        shutil.copytree(other, tmp_path / "root" / other.name)

    monkeypatch.setattr(photo_build, "_write_files", lose)
    folder = build_photo_sift(tmp_path / "root", **TINY)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [folder.name]
    assert contents(folder) == contents(other)


BUILD_SCRIPT = """
import logging, sys
from pathlib import Path
from datamodules import photo_rows
from datamodules import photo_sift as photo_build
logging.basicConfig(level=logging.INFO)
photo_rows.MIN_VIEWS_PER_PHOTOGRAPH = 1
photo_build.TRAINING_PHOTOGRAPHS = ("rocket.jpg", "coffee.png")
photo_build.DATABASE_PHOTOGRAPHS = ("chelsea.png", "text.png")
sizes = dict(zip(("num_train", "num_val", "num_database", "num_queries"), map(int, sys.argv[2:])))
photo_build.build_photo_sift(Path(sys.argv[1]), **sizes)
"""


@pytest.mark.usefixtures("few_views")
def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    command = [sys.executable, "-c", BUILD_SCRIPT, str(tmp_path / "both"), *map(str, TINY.values())]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    logs = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("built in" in log for log in logs) == 1
    folder = photo_sift_folder(tmp_path / "both", **TINY, seed=0)
    assert {path.name for path in (tmp_path / "both").iterdir()} == {folder.name}
    assert contents(folder) == contents(build_photo_sift(tmp_path / "alone", **TINY))


@pytest.mark.parametrize("key", [*TINY, "num_workers"])
def test_bad_size_is_named(tmp_path, key):
    with pytest.raises(ValueError, match=rf"^photo_sift: {key}=0: give at least 1$"):
        build_photo_sift(tmp_path / "root", **(TINY | {key: 0}))
    assert not (tmp_path / "root").exists()


def test_negative_seed_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^photo_sift: seed=-1: give 0 or more$"):
        build_photo_sift(tmp_path, seed=-1)


@pytest.mark.parametrize("package", ["cv2", "skimage"])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"^photo_sift needs .* pip install 'qinco_lit\[demo\]' .*" + package):
        build_photo_sift(tmp_path, **TINY)


def test_photograph_that_is_not_shipped_is_named():
    with pytest.raises(FileNotFoundError, match=r"^scikit-image carries no photograph 'nothing.png'"):
        photo_views.load_photograph("nothing.png")


@pytest.mark.usefixtures("few_views")
def test_data_module_builds_in_prepare_data_and_splits_the_training_file(tmp_path):
    root = tmp_path / "root"
    data = _data_module(root=str(root), **TINY, batch_size=4, cache_dir=str(tmp_path / "cache"))
    assert not root.exists()
    data.prepare_data()
    data.setup()
    folder = photo_sift_folder(root, **TINY, seed=0)
    train = rows(folder, "train.bvecs")
    np.testing.assert_array_equal(data.train_vectors[:], train[: TINY["num_train"]])
    np.testing.assert_array_equal(data.val_vectors[:], train[TINY["num_train"] :])
    np.testing.assert_array_equal(data.database[:], rows(folder, "database.bvecs"))
    np.testing.assert_array_equal(data.queries[:], rows(folder, "queries.bvecs"))
    np.testing.assert_array_equal(data.ground_truth, rows(folder, "groundtruth.ivecs"))
    assert data.dim == 128


@pytest.mark.usefixtures("few_views")
def test_data_module_build_seed_and_training_order_are_separate(tmp_path):
    def epoch(**seeds):
        data = _data_module(
            root=str(tmp_path), **TINY, batch_size=10, build_workers=1, cache_dir=str(tmp_path / "cache"), **seeds
        )
        data.prepare_data()
        data.setup()
        return np.concatenate([batch.numpy() for batch in data.train_dataloader()])

    first, other_order, other_rows = epoch(), epoch(seed=1), epoch(build_seed=1)
    assert first.tobytes() != other_order.tobytes()
    assert sorted(map(bytes, first)) == sorted(map(bytes, other_order)) != sorted(map(bytes, other_rows))


@pytest.mark.usefixtures("few_views")
def test_the_built_neighbours_are_for_squared_l2_and_computed_for_other_metrics(tmp_path):
    def truth(metric):
        data = _data_module(root=str(tmp_path / "root"), **TINY, cache_dir=str(tmp_path / "cache"), metric=metric)
        data.prepare_data()
        data.setup()
        return data.ground_truth

    folder = photo_sift_folder(tmp_path / "root", **TINY, seed=0)
    np.testing.assert_array_equal(truth("l2"), rows(folder, "groundtruth.ivecs"))
    queries, database = (rows(folder, f"{name}.bvecs").astype(np.float64) for name in ("queries", "database"))
    products = queries @ database.T
    np.testing.assert_array_equal(truth("ip"), np.argsort(-products, axis=1, kind="stable"))
    cosines = products / np.linalg.norm(database, axis=1)
    np.testing.assert_array_equal(truth("cosine"), np.argsort(-cosines, axis=1, kind="stable"))


def test_data_module_names_a_bad_size_before_anything_is_built(tmp_path):
    with pytest.raises(ValueError, match=r"^photo_sift: num_queries=0: give at least 1$"):
        photo_sift(root=str(tmp_path / "root"), num_queries=0)
    assert not (tmp_path / "root").exists()
