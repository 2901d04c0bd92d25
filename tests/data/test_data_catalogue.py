"""Every data set of the papers opens from miniature files in its real formats, through its shipped config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import qinco_lit.conf
from datamodules.catalogue import CATALOGUE, DataFile, open_dataset
from qinco_lit.data.data_module import data_module
from qinco_lit.vectors import write_vectors

CONFIGS = Path(qinco_lit.conf.__path__[0]) / "data"
VARIANTS = [(name, size) for name, dataset in CATALOGUE.items() for size in dataset.sizes]


def _write_miniature(root: Path, file: DataFile, num_rows: int, dim: int) -> np.ndarray:
    seed = int.from_bytes(file.path.encode()[:8], "little")
    values = np.random.default_rng(seed).integers(0, 30, (num_rows, dim)).astype(file.dtype)
    path = root / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_vectors(path, values)
    return values


def _config(name: str, tmp_path: Path, **changes: object) -> DictConfig:
    config = OmegaConf.create({"data_dir": str(tmp_path), "data": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    config.data.merge_with(changes)
    return config.data


@pytest.mark.parametrize(("name", "size"), VARIANTS)
def test_miniature_files_open_through_the_config(name: str, size: str, tmp_path: Path):
    dataset = CATALOGUE[name]
    files, root = dataset.sizes[size], tmp_path / name
    train = _write_miniature(root, files.train, 70, dataset.dim)
    database = _write_miniature(root, files.database, 30, dataset.dim)
    queries = _write_miniature(root, files.queries, 5, dataset.dim)
    if files.ground_truth is not None:
        truth = _write_miniature(root, files.ground_truth, 5, 4)
    else:
        squared_l2 = ((queries[:, None].astype(int) - database[None].astype(int)) ** 2).sum(2)
        truth = np.argsort(squared_l2, axis=1, kind="stable")
    data = data_module(_config(name, tmp_path, size=size, num_val=20), batch_size=10, seed=1)
    data.prepare_data()
    data.setup()
    assert (data.name, data.dim, data.batch_size, data.seed) == (name, dataset.dim, 10, 1)
    np.testing.assert_array_equal(data.train_vectors[:], train[:50])
    np.testing.assert_array_equal(data.val_vectors[:], train[50:])
    np.testing.assert_array_equal(data.database[:], database)
    np.testing.assert_array_equal(data.queries[:], queries)
    np.testing.assert_array_equal(data.ground_truth, truth)
    rows = torch.cat(list(data.train_dataloader()))
    assert rows.dtype == getattr(torch, dataset.dtype)
    np.testing.assert_array_equal(np.unique(rows.numpy(), axis=0), np.unique(train[:50], axis=0))


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_the_lists_of_neighbours_that_come_with_a_set_are_for_squared_l2(metric: str, tmp_path: Path):
    files, root = CATALOGUE["bigann"].sizes["1M"], tmp_path / "bigann"
    rows = {file: _write_miniature(root, file, 60, 128) for file in (files.train, files.database, files.queries)}
    data = data_module(_config("bigann", tmp_path, metric=metric, num_val=20))
    data.setup()
    database, queries = (rows[file].astype(np.float64) for file in (files.database, files.queries))
    if metric == "cosine":
        database /= np.linalg.norm(database, axis=1, keepdims=True)
    np.testing.assert_array_equal(data.ground_truth[:, :5], np.argsort(-queries @ database.T, axis=1)[:, :5])


@pytest.mark.parametrize(
    ("name", "metric"), [*((name, "l2") for name in (*CATALOGUE, "files", "photo_sift")), ("docs_text", "cosine")]
)
def test_every_set_is_compared_by_squared_l2_unless_asked_otherwise_but_sentences(
    name: str, metric: str, tmp_path: Path
):
    assert _config(name, tmp_path).metric == metric


@pytest.mark.parametrize("name", CATALOGUE)
def test_configs_hold_the_defaults_of_the_papers(name: str, tmp_path: Path):
    config = _config(name, tmp_path)
    assert (config.size, config.num_val, config.epoch_size) == ("1M", 10_000, 10_000_000)
    assert (config.root, config.cache_dir) == (f"{tmp_path}/{name}", f"{tmp_path}/cache")
    assert {"batch_size", "seed"}.isdisjoint(config)


def test_config_of_own_files(tmp_path: Path):
    np.save(tmp_path / "mine.npy", np.zeros((30, 4), np.float32))
    data = data_module(_config("files", tmp_path, train=str(tmp_path / "mine.npy"), num_val=10), batch_size=5, seed=0)
    data.setup()
    assert (data.name, len(data.train_vectors), data.queries) == ("files", 20, None)


@pytest.mark.parametrize(
    ("name", "size", "role"),
    [
        (name, size, role)
        for name, size in VARIANTS
        for role, file in vars(CATALOGUE[name].sizes[size]).items()
        if file is not None
    ],
)
def test_a_missing_file_names_its_download(name: str, size: str, role: str, tmp_path: Path):
    files = CATALOGUE[name].sizes[size]
    missing = getattr(files, role)
    for file in (files.train, files.database, files.queries, files.ground_truth):
        if file is not None and file is not missing:
            path = tmp_path / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    with pytest.raises(FileNotFoundError) as error:
        open_dataset(name=name, size=size, root=str(tmp_path))
    command = f"qinco download {name}" + (" --small" if size == "1M" else "")
    assert str(error.value) == f"{tmp_path / missing.path} is missing: `{command}` brings it"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("bigann", "10M", "data set bigann has no size '10M': choose data.size=1M or 1B"),
        ("contriever", "1B", "data set contriever has no size '1B': choose data.size=1M"),
        ("sift", "1M", "data set 'sift' is not in the catalogue: choose from bigann, deep1b, contriever, fb_ssnpp"),
    ],
)
def test_unknown_choices(name: str, size: str, message: str):
    with pytest.raises(ValueError) as error:
        open_dataset(name=name, size=size, root="data")
    assert str(error.value) == message


@pytest.mark.parametrize("suffix", [".bvecs", ".fvecs", ".ivecs", ".fbin", ".u8bin", ".npy"])
def test_sizes_follow_from_the_facts(suffix: str, tmp_path: Path):
    dtype = {".bvecs": "uint8", ".u8bin": "uint8", ".ivecs": "int32"}.get(suffix, "float32")
    file = DataFile(f"x{suffix}", "", dtype, 7, 12)
    _write_miniature(tmp_path, file, 7, 12)
    assert file.size_bytes == (tmp_path / file.path).stat().st_size
    assert DataFile("x.npy", "", "uint8", None, 12).size_bytes is None


def test_known_sizes():
    """Sizes that the data sets' own pages state."""
    bigann, deep1b = CATALOGUE["bigann"].sizes["1B"], CATALOGUE["deep1b"].sizes["1B"]
    assert bigann.database.size_bytes == 132_000_000_000
    assert bigann.train.size_bytes == 13_200_000_000
    assert deep1b.database.size_bytes == 384_000_000_008


def test_files_of_one_data_set_agree():
    for dataset in CATALOGUE.values():
        for files in dataset.sizes.values():
            for file in (files.train, files.database, files.queries):
                assert (file.dim, file.dtype) == (dataset.dim, dataset.dtype)
                assert file.url.startswith(("https://", "ftp://"))
