"""Laws of the data module: the split, the types, the ground truth, the errors."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qinco_lit.data import ground_truth as ground_truth_module
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.data_facts import DataSource
from qinco_lit.vectors.rows import unit_rows

RNG = np.random.default_rng(5)
TRAIN = RNG.integers(0, 256, (1000, 16)).astype(np.uint8)
DATABASE = RNG.integers(0, 256, (300, 16)).astype(np.uint8)
QUERIES = RNG.integers(0, 256, (20, 16)).astype(np.uint8)


def _neighbours(database: np.ndarray, k: int = 100) -> np.ndarray:
    difference = QUERIES[:, None].astype(np.int64) - database[None].astype(np.int64)
    return np.argsort((difference**2).sum(2), axis=1, kind="stable")[:, :k]


@pytest.fixture
def make(tmp_path: Path):
    """Returns a maker of data modules over bvecs files."""
    write_vectors(tmp_path / "train.bvecs", TRAIN)
    write_vectors(tmp_path / "database.bvecs", DATABASE)
    write_vectors(tmp_path / "queries.bvecs", QUERIES)
    write_vectors(tmp_path / "truth.ivecs", _neighbours(DATABASE, 10).astype(np.int32))

    def make(**changes: object) -> VectorDataModule:
        options: dict[str, object] = {
            "name": "tiny",
            "train": str(tmp_path / "train.bvecs"),
            "database": str(tmp_path / "database.bvecs"),
            "queries": str(tmp_path / "queries.bvecs"),
            "num_val": 100,
            "batch_size": 64,
            "cache_dir": str(tmp_path / "cache"),
        }
        given = options | changes
        names = ("name", "train", "database", "queries", "ground_truth")
        files = {name: given.pop(name) for name in names if name in given}
        data = VectorDataModule(DataSource(**files), **given)  # type: ignore[arg-type]
        data.prepare_data()
        data.setup()
        return data

    return make


def test_the_last_rows_are_for_validation(make):
    data = make()
    assert (data.name, data.dim, data.batch_size) == ("tiny", 16, 64)
    np.testing.assert_array_equal(data.train_vectors[:], TRAIN[:900])
    np.testing.assert_array_equal(data.val_vectors[:], TRAIN[900:])
    np.testing.assert_array_equal(data.database[:], DATABASE)
    np.testing.assert_array_equal(data.queries[:], QUERIES)


def test_limit_train_leaves_the_validation_rows_alone(make):
    data = make(limit_train=250)
    np.testing.assert_array_equal(data.train_vectors[:], TRAIN[:250])
    np.testing.assert_array_equal(data.val_vectors[:], TRAIN[900:])
    assert len(make(limit_train=5000).train_vectors) == 900


def test_uint8_stays_uint8_and_every_row_arrives_once(make):
    data = make(batch_size=50)
    batches = list(data.train_dataloader())
    assert {(tuple(batch.shape), batch.dtype) for batch in batches} == {((50, 16), torch.uint8)}
    rows = torch.cat(batches).numpy()
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(TRAIN[:900], axis=0))
    for loader, expected in ((data.val_dataloader(), TRAIN[900:]), (data.test_dataloader(), DATABASE)):
        in_order = torch.cat(list(loader))
        assert in_order.dtype == torch.uint8
        np.testing.assert_array_equal(in_order.numpy(), expected)


def test_ranks_come_from_the_trainer(make):
    data = make(batch_size=50, eval_batch_size=30)
    parts = []
    for rank in range(3):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=strategy)  # type: ignore[assignment]
        assert len(data.train_dataloader()) == 6
        assert [len(batch) for batch in data.val_dataloader()] in ([16, 17], [17, 17], [16, 16], [17, 16])
        parts.append(torch.cat(list(data.train_dataloader())).numpy())
    np.testing.assert_array_equal(np.unique(np.concatenate(parts), axis=0), np.unique(TRAIN[:900], axis=0))


def test_epoch_size_walks_through_the_file(make):
    loader = make(batch_size=50, epoch_size=100).train_dataloader()
    assert len(loader) == 2
    rows = torch.cat([batch for _ in range(9) for batch in loader]).numpy()
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(TRAIN[:900], axis=0))


def test_given_ground_truth_is_read(make, tmp_path: Path):
    data = make(ground_truth=str(tmp_path / "truth.ivecs"))
    assert data.ground_truth.dtype == np.int64
    np.testing.assert_array_equal(data.ground_truth, _neighbours(DATABASE, 10))
    assert not (tmp_path / "cache").exists()


def test_given_ground_truth_may_be_padded_after_the_first_column(make, tmp_path: Path):
    padded = _neighbours(DATABASE, 10)
    padded[3, 1:], padded[7, 6:] = -1, -1
    write_vectors(tmp_path / "padded.ivecs", padded.astype(np.int32))
    np.testing.assert_array_equal(make(ground_truth=str(tmp_path / "padded.ivecs")).ground_truth, padded)


def test_computed_ground_truth_is_brute_force_and_kept(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.testing.assert_array_equal(make().ground_truth, _neighbours(DATABASE))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]
    monkeypatch.setattr(ground_truth_module, "exact_neighbours", None)  # would fail if it were called again
    np.testing.assert_array_equal(make().ground_truth, _neighbours(DATABASE))


def test_ground_truth_follows_the_database(make, tmp_path: Path):
    """Another part of the database, or another file under the same name, never meets the neighbours of the old one."""
    assert make().ground_truth.max() > 149
    limited = make(limit_database=150, ground_truth=str(tmp_path / "truth.ivecs"))
    np.testing.assert_array_equal(limited.ground_truth, _neighbours(DATABASE[:150]))
    few = make(limit_database=30)
    np.testing.assert_array_equal(few.ground_truth, _neighbours(DATABASE[:30], 30))
    other = DATABASE[::-1].copy()
    write_vectors(tmp_path / "database.bvecs", other)
    np.testing.assert_array_equal(make().ground_truth, _neighbours(other))


def test_first_and_last_rows_of_one_file_are_two_databases(make, tmp_path: Path):
    validation = make(database=None)
    np.testing.assert_array_equal(validation.database[:], TRAIN[900:])
    np.testing.assert_array_equal(validation.ground_truth, _neighbours(TRAIN[900:]))
    first = make(database=str(tmp_path / "train.bvecs"), limit_database=100)
    np.testing.assert_array_equal(first.ground_truth, _neighbours(TRAIN[:100]))


def test_hdf5_datasets_are_files_too(make, tmp_path: Path):
    path = f"{tmp_path / 'all.hdf5'}"
    write_vectors(f"{path}:train", DATABASE.astype(np.float32))
    data = make(database=f"{path}:train")
    np.testing.assert_array_equal(data.ground_truth, _neighbours(DATABASE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0: give at least 1"),
        ({"num_val": 0}, "data.num_val=0: give at least 1"),
        ({"limit_train": -1}, "data.limit_train=-1: give at least 1"),
        ({"metric": "dot"}, "data.metric=dot: give one of l2, ip, cosine"),
        (
            {"num_val": 1000, "database": None, "ground_truth": None},
            "train.bvecs: 1000 rows, data.num_val=1000 leaves none to train on: lower data.num_val to 100",
        ),
        (
            {"database": "{}/other.fvecs"},
            "other.fvecs has dimension 8, {}/train.bvecs has 16: give files of one data set",
        ),
        (
            {"queries": "{}/other.fvecs"},
            "other.fvecs has dimension 8, {}/train.bvecs has 16: give files of one data set",
        ),
        (
            {"ground_truth": "{}/few.ivecs"},
            "few.ivecs: ground truth of 3 queries, there are 20: give the matching files",
        ),
        (
            {"ground_truth": "{}/far.ivecs"},
            "far.ivecs: id 300 of query 3 is outside of the database of 300 rows: give the matching files",
        ),
        (
            {"ground_truth": "{}/none.ivecs"},
            "none.ivecs: id -1 of query 2 is outside of the database of 300 rows: give the matching files",
        ),
        (
            {"ground_truth": "{}/below.ivecs"},
            "below.ivecs: id -2 of query 5 is outside of the database of 300 rows: give the matching files",
        ),
        (
            {"ground_truth": "{}/other.fvecs"},
            "other.fvecs: ground truth holds float32, expected integer ids: give an ivecs, ibin or npy file",
        ),
    ],
)
def test_mistakes(make, tmp_path: Path, changes: dict[str, object], message: str):
    write_vectors(tmp_path / "other.fvecs", np.zeros((20, 8), np.float32))
    write_vectors(tmp_path / "few.ivecs", np.zeros((3, 5), np.int32))
    for name, value, place in (("far", 300, (3, 4)), ("none", -1, (2, 0)), ("below", -2, (5, 1))):
        truth = np.zeros((20, 5), np.int32)
        truth[place] = value
        write_vectors(tmp_path / f"{name}.ivecs", truth)
    filled = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(ValueError) as error:
        make(**filled)
    assert str(error.value).endswith(message.format(tmp_path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_too_short_to_train_on_has_a_database_to_encode(make):
    data = make(num_val=1000)
    np.testing.assert_array_equal(data.database[:], DATABASE)
    for rows in ("train_vectors", "val_vectors"):
        with pytest.raises(ValueError, match=r"1000 rows, data.num_val=1000 leaves none to train on: lower .* to 100$"):
            getattr(data, rows)


def _paths(folder: Path) -> list[Path]:
    return [folder / "queries.bvecs", folder / "database.bvecs"]


def test_squared_l2_is_the_default_and_its_cache_keeps_its_names(make, tmp_path: Path):
    """A cache from before there were other metrics is found; its key is a hash of these facts."""
    assert make().metric == "l2"
    computed = make(metric="l2").ground_truth
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _paths(tmp_path)]
    facts = [files[0], 20, files[1], 0, 300, 100]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"ground_truth-{key}.npy"]
    np.testing.assert_array_equal(computed, _neighbours(DATABASE))


def test_inner_products_compare_the_rows_as_stored(make):
    data = make(metric="ip")
    assert data.metric == "ip"
    np.testing.assert_array_equal(data.database[:], DATABASE)
    products = QUERIES.astype(np.int64) @ DATABASE.T.astype(np.int64)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :100]
    np.testing.assert_array_equal(data.ground_truth, expected)
    assert (expected != _neighbours(DATABASE)).any()
    limited = make(metric="ip", limit_database=150)
    np.testing.assert_array_equal(limited.ground_truth, np.argsort(-products[:, :150], axis=1, kind="stable")[:, :100])


def test_cosine_reads_unit_vectors_everywhere(make):
    data = make(metric="cosine", batch_size=50, limit_train=800)
    rows = {"train_vectors": TRAIN[:800], "val_vectors": TRAIN[900:], "database": DATABASE, "queries": QUERIES}
    for name, raw in rows.items():
        vectors = getattr(data, name)
        assert (vectors.dtype, vectors.shape) == (np.float32, raw.shape)
        np.testing.assert_array_equal(vectors[:], unit_rows(raw))
    batches = list(data.train_dataloader())
    assert {batch.dtype for batch in batches} == {torch.float32}
    expected = np.unique(unit_rows(TRAIN[:800]), axis=0)
    np.testing.assert_array_equal(np.unique(torch.cat(batches).numpy(), axis=0), expected)
    np.testing.assert_array_equal(torch.cat(list(data.val_dataloader())).numpy(), unit_rows(TRAIN[900:]))
    np.testing.assert_array_equal(torch.cat(list(data.test_dataloader())).numpy(), unit_rows(DATABASE))


def test_the_true_neighbours_by_cosine(make):
    query_norms, norms = (np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (QUERIES, DATABASE))
    cosines = (QUERIES.astype(np.float64) @ DATABASE.T) / query_norms[:, None] / norms
    data = make(metric="cosine")
    found = np.take_along_axis(cosines, data.ground_truth, axis=1)
    # float32 components of unit vectors: pairs closer than this may change places
    np.testing.assert_allclose(found, -np.sort(-cosines, axis=1)[:, :100], atol=3e-7)
    validation = make(metric="cosine", database=None)
    np.testing.assert_array_equal(validation.database[:], unit_rows(TRAIN[900:]))
    assert validation.ground_truth.shape == (20, 100)


def test_metrics_never_share_true_neighbours(make, tmp_path: Path):
    truths = [make(metric=metric).ground_truth for metric in ("l2", "ip", "cosine")]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    for metric, truth in zip(("l2", "ip", "cosine"), truths, strict=True):
        np.testing.assert_array_equal(make(metric=metric).ground_truth, truth)
        assert sum(np.array_equal(truth, other) for other in truths) == 1


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_given_ground_truth_is_taken_by_every_metric(make, tmp_path: Path, metric: str):
    data = make(metric=metric, ground_truth=str(tmp_path / "truth.ivecs"))
    np.testing.assert_array_equal(data.ground_truth, _neighbours(DATABASE, 10))


def test_no_queries_no_neighbours(make):
    data = make(queries=None)
    assert data.queries is None
    with pytest.raises(
        ValueError, match=r"^data set tiny has no queries, so no true neighbours: give data\.queries=FILE$"
    ):
        _ = data.ground_truth


def test_arrays_stream_as_files_do(make, tmp_path: Path):
    source = DataSource(
        name="tiny", train=TRAIN[:900], val=TRAIN[900:], database=DATABASE, queries=torch.tensor(QUERIES)
    )
    data = VectorDataModule(source, num_val=1, batch_size=64, cache_dir=str(tmp_path / "none"))
    data.prepare_data()
    data.setup()
    files = make()
    for name in ("train_vectors", "val_vectors", "database", "queries", "ground_truth"):
        np.testing.assert_array_equal(getattr(data, name)[:], getattr(files, name)[:])
    for ours, theirs in zip(data.train_dataloader(), files.train_dataloader(), strict=True):
        assert torch.equal(ours, theirs)
    assert not (tmp_path / "none").exists()  # nothing tells one array from another
    wide = DataSource(name="tiny", train=TRAIN, val=TRAIN[:, :5])
    with pytest.raises(ValueError, match=r"^val \(an array\) has dimension 5, train \(an array\) has 16: give files"):
        VectorDataModule(wide).setup()
