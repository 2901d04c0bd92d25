"""Centroids are of vectors as `data.metric` reads them, or training refuses them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.coarse import centroids as module
from qinco_lit.coarse.centroids import train_centroids
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import open_vectors
from qinco_lit.vectors.code_info import check_centroids_reading
from qinco_lit.vectors.data_facts import DataSource
from tests.cli.conftest import qinco, refused  # noqa: F401 (fixtures)

DATA = ["data=files", "data.train=x.npy", "data.num_val=100"]
MAKE = "make them with `qinco centroids data=CHOICE data.metric="


def _data(path: Path, metric: str) -> VectorDataModule:
    data = VectorDataModule(DataSource(name="files", train=path), num_val=100, metric=metric)
    data.setup()
    return data


def _centroids(vectors: Any, output: Path) -> Path:
    train_centroids(vectors, output=output, num_lists=5, device="cpu", num_threads=1)
    return output


def _edit(path: Path, **changes: Any) -> None:
    record = {**json.loads(path.with_suffix(".json").read_text()), **changes}
    kept = {name: value for name, value in record.items() if value is not None}
    path.with_suffix(".json").write_text(json.dumps(kept))


@pytest.fixture
def x(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.float32(np.random.default_rng(0).normal(size=(700, 8)) * 3 + 1))
    return tmp_path / "x.npy"


def test_training_refuses_centroids_in_another_reading(qinco, refused, x, tmp_path):  # noqa: F811
    for metric in ("l2", "cosine"):
        made = qinco("centroids", *DATA, f"data.metric={metric}", "num_lists=5", f"output={metric}.npy", "device=cpu")
        assert made.code == 0, made.err
    train = ["train", *DATA, "coarse=ivf", "logger=none", "hydra.run.dir=run"]
    assert refused(*train, "coarse.centroids=cosine.npy") == (
        "coarse.centroids=cosine.npy are of vectors of unit length, with data.metric=l2 data set files has vectors as "
        f"they are stored: {MAKE}l2`"
    )
    assert refused(*train, "coarse.centroids=l2.npy", "data.metric=cosine") == (
        "coarse.centroids=l2.npy are of vectors as they are stored, with data.metric=cosine data set files has vectors "
        f"of unit length: {MAKE}cosine`"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("old", [False, True])
def test_which_centroids_fit_which_metric(x, tmp_path, old):
    """k-means does the same for l2 and ip; records of before the reading was recorded have a sample of the rows."""
    for unit, metrics in ((False, ("l2", "ip")), (True, ("cosine",))):
        rows = open_vectors(x).view(0, 600)
        path = _centroids(rows.unit() if unit else rows, tmp_path / f"{unit}.npy")
        if old:
            _edit(path, input_unit=None)
            assert _centroids(rows.unit() if unit else rows, path) == path  # it is complete still
        for metric in ("l2", "ip", "cosine"):
            if metric in metrics:
                check_centroids_reading(path, _data(x, metric))
            else:
                with pytest.raises(ValueError, match=rf"^coarse.centroids={path} are of vectors .*: {MAKE}{metric}`$"):
                    check_centroids_reading(path, _data(x, metric))


def test_centroids_of_which_nothing_is_known(x, tmp_path):
    np.save(tmp_path / "other.npy", np.load(x)[::-1])
    path = _centroids(open_vectors(tmp_path / "other.npy"), tmp_path / "c.npy")
    with pytest.raises(ValueError, match=r"are of vectors as they are stored"):
        check_centroids_reading(path, _data(x, "cosine"))
    _edit(path, input_unit=None)
    check_centroids_reading(path, _data(x, "cosine"))
    for text in (None, "{", "[]", '{"format": "mine"}', '{"format": "qinco_lit centroids"}'):
        path.with_suffix(".json").unlink(missing_ok=True)
        if text is not None:
            path.with_suffix(".json").write_text(text)
        check_centroids_reading(path, _data(x, "cosine"))


def test_threads_are_those_of_faiss_unless_given(x, tmp_path, monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr("faiss.omp_get_max_threads", lambda: 3)
    run = module.run_kmeans

    def counted(*arguments: Any, num_threads: int, **options: Any) -> Any:
        seen.append(num_threads)
        return run(*arguments, num_threads=num_threads, **options)

    monkeypatch.setattr("qinco_lit.coarse.centroids.run_kmeans", counted)
    train_centroids(open_vectors(x), output=tmp_path / "a.npy", num_lists=5, device="cpu")
    _centroids(open_vectors(x), tmp_path / "b.npy")
    assert seen == [3, 1]
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
