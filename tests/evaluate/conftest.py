"""A small data set in memory, a small codec, and `evaluate` with both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float32, Int64

from qinco_lit.codec import Codec
from qinco_lit.commands.evaluate import evaluate
from qinco_lit.evaluation.baselines import SETTINGS
from qinco_lit.quantizers import build_quantizer
from qinco_lit.vectors.rows import unit_rows
from tests.models import random_quantizer

DIM, STEPS, CODEBOOK = 6, 3, 16
SMALL = {"codebook_size": CODEBOOK, "hidden_dim": 8, "num_blocks": 1, "num_candidates": 4, "beam_size": 3}


def vectors(num: int, seed: int) -> Float32[np.ndarray, "num dim"]:
    return np.random.default_rng(seed).normal(size=(num, DIM)).astype(np.float32)


def neighbours(queries: Any, database: Any) -> Int64[np.ndarray, "nq n"]:
    squared_l2 = np.square(queries[:, None].astype(np.float64) - database).sum(axis=2)
    return np.argsort(squared_l2, axis=1, kind="stable")


def largest_products(queries: Any, database: Any) -> Int64[np.ndarray, "nq n"]:
    products = (queries[:, None].astype(np.float64) * database).sum(axis=2)
    return np.argsort(-products, axis=1, kind="stable")


NEAREST = {"l2": neighbours, "ip": largest_products, "cosine": largest_products}


class Data:
    """What docs/architecture.md asks of a data module, in memory."""

    name, batch_size = "normal", 7

    def __init__(self, *, dim: int = DIM, with_queries: bool = True, metric: str = "l2") -> None:
        self._dim, self._with_queries, self.metric = dim, with_queries, metric
        self.prepared = False

    def prepare_data(self) -> None:
        self.prepared = True

    def setup(self, stage: str) -> None:
        assert self.prepared
        self.dim = self._dim
        self.train_vectors, self.database = vectors(700, 1)[:, : self.dim], vectors(250, 2)[:, : self.dim]
        self.queries = vectors(30, 3)[:, : self.dim] if self._with_queries else None
        if self.metric == "cosine":
            self.database, self.queries = unit_rows(self.database), unit_rows(self.queries)

    @property
    def ground_truth(self) -> Int64[np.ndarray, "nq n"]:
        return NEAREST[self.metric](self.queries, self.database)[:, :100]


def small_codec(num_steps: int, seed: int = 0, **options: Any) -> Codec:
    quantizer = random_quantizer(DIM, seed=seed, num_steps=num_steps, **SMALL | options)
    quantizer.data_std.fill_(1.3)
    return Codec(quantizer)


def saved_codec(path: Path, *args: Any, **options: Any) -> Path:
    small_codec(*args, **options).save(path)
    return path


def ready_data(**options: Any) -> Data:
    data = Data(**options)
    data.prepare_data()
    data.setup("")
    return data


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "lsq", {"train_iterations": 2, "train_ils_iterations": 2, "encode_ils_iterations": 4})
    monkeypatch.setitem(SETTINGS, "opq", {"kmeans_iterations": 5, "rotation_iterations": 4})


@pytest.fixture
def codec_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    quantizer = build_quantizer(
        DIM, num_steps=STEPS, codebook_size=CODEBOOK, hidden_dim=8, num_blocks=1, num_candidates=4, beam_size=3
    )
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.normal_(0, 0.4)
        quantizer.data_mean.fill_(0.1)
        quantizer.data_std.fill_(1.3)
    Codec(quantizer).save(tmp_path / "codec")
    return tmp_path / "codec"


@pytest.fixture
def run(codec_dir: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(**options: Any) -> dict[str, Any]:
        defaults = {
            "codec_dir": codec_dir,
            "data": Data(),
            "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache",
        }
        return evaluate(**{**defaults, **options})

    return call
